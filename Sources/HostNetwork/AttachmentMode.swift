public import NetFrames

/// How a guest's interface becomes part of the host's network.
public enum AttachmentMode: Hashable, Sendable, CustomStringConvertible {
    /// By a bridge: made if it is missing, if `isCreated`. Isolated ports reach only ports that are not.
    case bridge(String, isCreated: Bool, isIsolated: Bool)
    /// By routes to the guest's addresses.
    case routed
    /// Behind the host's address, with an IPv4 address out of this network, whose first address is the gateway.
    case translated(AddressRange)

    /// `bridge=NAME[,create][,isolated]`, `routed`, `nat=SUBNET`; nil if it is anything else.
    public init?(_ text: String) {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        switch (parts[0], parts.dropFirst().first) {
        case ("routed", nil): self = .routed
        case ("bridge", let value?): self.init(bridge: value)
        case ("nat", let value?):
            guard let range = AddressRange(value), range.isV4, (1...30).contains(range.length) else { return nil }
            self = .translated(range.network)
        default: return nil
        }
    }

    private init?(bridge text: Substring) {
        let words = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        let options = words.dropFirst()
        guard Self.isInterfaceName(words[0]), options.allSatisfy({ ["create", "isolated"].contains($0) }) else {
            return nil
        }
        self = .bridge(
            words[0], isCreated: options.contains("create"), isIsolated: options.contains("isolated"))
    }

    /// What Linux takes for a name (net/core/dev.c, dev_valid_name).
    public static func isInterfaceName(_ text: String) -> Bool {
        (1...15).contains(text.utf8.count) && text != "." && text != ".."
            && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
    }

    /// The same by another bridge; other modes know none.
    public func through(bridge name: String) -> AttachmentMode {
        guard case .bridge(_, let isCreated, let isIsolated) = self else { return self }
        return .bridge(name, isCreated: isCreated, isIsolated: isIsolated)
    }

    public var description: String {
        switch self {
        case .bridge(let name, let isCreated, let isIsolated):
            "bridge=\(name)\(isCreated ? ",create" : "")\(isIsolated ? ",isolated" : "")"
        case .routed: "routed"
        case .translated(let range): "nat=\(range)"
        }
    }
}

/// What is wanted for one interface.
public struct AttachmentRequest: Hashable, Sendable {
    public let mode: AttachmentMode
    /// The guest's.
    public let addresses: [AddressRange]
    /// By which interface the guest reaches the world; nil: wherever the host's default routes lead.
    public let uplink: String?

    public init(_ mode: AttachmentMode, addresses: [AddressRange], uplink: String?) {
        self.mode = mode
        self.addresses = addresses
        self.uplink = uplink
    }

    /// One word, for the ledger.
    var text: String { ([mode.description, uplink ?? ""] + addresses.map(\.description)).joined(separator: ";") }
}
