public import CXen

/// Which packets to the guest are hashed, and over what (XEN_NETIF_CTRL_HASH_TYPE_*): the most specific one that is on.
public struct HashTypes: OptionSet, Sendable, BitwiseCopyable {
    public let rawValue: UInt32
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Over both addresses.
    public static let ipv4 = HashTypes(.ipv4)
    public static let ipv6 = HashTypes(.ipv6)
    /// Over both addresses and both ports.
    public static let ipv4TCP = HashTypes(.ipv4TCP)
    public static let ipv6TCP = HashTypes(.ipv6TCP)
    public static let all: HashTypes = [.ipv4, .ipv4TCP, .ipv6, .ipv6TCP]

    @inlinable public init(_ kind: HashKind) { rawValue = 1 << UInt32(kind.rawValue) }
}

/// What a hash was computed over (_XEN_NETIF_CTRL_HASH_TYPE_*).
public enum HashKind: UInt8, Sendable, BitwiseCopyable {
    case ipv4 = 0
    case ipv4TCP = 1
    case ipv6 = 2
    case ipv6TCP = 3
}

/// XEN_NETIF_CTRL_HASH_ALGORITHM_*.
public enum HashAlgorithm: UInt32, Sendable, BitwiseCopyable {
    case none = 0
    case toeplitz = 1
}

/// A packet's hash, always by Toeplitz.
public struct PacketHash: Equatable, Sendable, BitwiseCopyable {
    public var kind: HashKind
    public var value: UInt32

    public init(_ kind: HashKind, _ value: UInt32) {
        self.kind = kind
        self.value = value
    }
}

/// How a control request ended (XEN_NETIF_CTRL_STATUS_*).
public enum ControlStatus: UInt32, Error, Sendable {
    case success = 0
    case notSupported = 1
    case invalidParameter = 2
    case bufferOverflow = 3
}

/// What a guest asks for on the control ring (XEN_NETIF_CTRL_TYPE_*).
public enum ControlRequest: Equatable, Sendable {
    case getHashTypes
    case setHashTypes(HashTypes)
    /// The key's bytes lie at the beginning of a page.
    case setHashKey(GrantReference, length: Int)
    case getMappingSize
    case setMappingSize(Int)
    /// `count` entries of four bytes at the beginning of a page, for the table's entries from `offset` on.
    case setMapping(GrantReference, count: Int, offset: Int)
    case setAlgorithm(HashAlgorithm)

    /// Bytes of the longest key: enough for the longest that is hashed, two IPv6 addresses and two ports.
    @inlinable public static var longestKey: Int { @_noLocks get { 40 } }
    /// Entries of the largest mapping table; as xen-netback and Windows have it.
    public static let largestMapping = 128
    /// Bytes of an entry on the wire.
    public static let mappingEntry = 4

    /// Judges a private copy of a request: everything that does not depend on what was set before.
    ///
    /// - Throws: the status to answer with.
    public static func judge(_ request: netif_ctrl_request_wire) throws(ControlStatus) -> ControlRequest {
        let data = request.data
        switch request.type {
        case 1: return .getHashTypes
        case 2:
            let types = HashTypes(rawValue: data.0)
            guard types.isSubset(of: .all) else { throw .invalidParameter }
            return .setHashTypes(types)
        case 3:
            guard data.1 <= longestKey else { throw .bufferOverflow }
            return .setHashKey(GrantReference(data.0), length: Int(data.1))
        case 4: return .getMappingSize
        case 5:
            guard data.0 <= largestMapping else { throw .invalidParameter }
            return .setMappingSize(Int(data.0))
        case 6: return try mapping(data)
        case 7:
            guard let algorithm = HashAlgorithm(rawValue: data.0) else { throw .invalidParameter }
            return .setAlgorithm(algorithm)
        default: throw .notSupported
        }
    }

    /// Each is bounded before both are added: what wraps around ends in front of its beginning (XSA-270).
    private static func mapping(_ data: (UInt32, UInt32, UInt32)) throws(ControlStatus) -> ControlRequest {
        guard data.1 <= largestMapping else { throw .bufferOverflow }
        guard data.2 <= largestMapping, data.1 + data.2 <= largestMapping else { throw .invalidParameter }
        return .setMapping(GrantReference(data.0), count: Int(data.1), offset: Int(data.2))
    }
}
