public import XenWire

/// Who may do what with a node.
///
/// The first entry on the wire names the owner (who may do everything) and what all others may; the rest are exceptions.
public struct XenstorePermissions: Equatable, Sendable {
    /// A domain's rights on a node: the letters of the wire format.
    public enum Access: UInt8, Sendable, CaseIterable {
        case none = 0x6E
        case read = 0x72
        case write = 0x77
        case both = 0x62

        public var allowsReading: Bool { self == .read || self == .both }
        public var allowsWriting: Bool { self == .write || self == .both }
    }

    /// One exception from what all others may.
    public struct Grant: Equatable, Sendable {
        public var domain: DomainID
        public var access: Access

        public init(_ domain: DomainID, _ access: Access) {
            self.domain = domain
            self.access = access
        }
    }

    public var owner: DomainID
    public var others: Access
    public var grants: [Grant]

    public init(owner: DomainID, others: Access = .none, grants: [Grant] = []) {
        self.owner = owner
        self.others = others
        self.grants = grants
    }

    /// What `domain` may, the owner's and dom0's privilege included.
    public func access(of domain: DomainID) -> Access {
        if domain == owner || domain.rawValue == 0 { return .both }
        return grants.first { $0.domain == domain }?.access ?? others
    }
}

extension XenstorePermissions {
    /// The wire format: `n0`, `r7`, ... each with its NUL.
    public var payload: [UInt8] {
        ([Grant(owner, others)] + grants).flatMap { [$0.access.rawValue] + Array("\($0.domain)".utf8) + [0] }
    }

    /// Parses the wire format; nil if it is malformed.
    public init?(payload: [UInt8]) {
        guard let entries = payload.nulTerminatedStrings else { return nil }
        var grants: [Grant] = []
        for entry in entries {
            guard let letter = entry.first, let access = Access(rawValue: letter),
                let domain = XenstoreValue(Array(entry.dropFirst())).unsigned(atMost: UInt64(UInt16.max))
            else { return nil }
            grants.append(Grant(DomainID(UInt16(truncatingIfNeeded: domain)), access))
        }
        guard let first = grants.first else { return nil }
        self.init(owner: first.domain, others: first.access, grants: Array(grants.dropFirst()))
    }
}
