/// A Xen domain's number (`domid_t`); dom0 is 0.
public struct DomainID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }
    public var description: String { "\(rawValue)" }
}

/// A grant reference (`grant_ref_t`): an index into the granting domain's grant table.
public struct GrantReference: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "\(rawValue)" }
}

/// An event channel port (`evtchn_port_t`), local to one domain.
public struct EventPort: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public init(_ rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "\(rawValue)" }
}

/// A count or position in 512-byte sectors, the unit of every number in blkif (Xen 4.20, blkif.h).
public struct Sector: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static func < (left: Sector, right: Sector) -> Bool { left.rawValue < right.rawValue }
    public var description: String { "\(rawValue)" }
    /// Bytes in a sector, whatever the volume's own block size.
    public static let size: UInt64 = 512
}
