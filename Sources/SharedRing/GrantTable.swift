public import CXen
public import Descriptors
public import XenWire

/// Which way a grant copy goes; one call carries one direction only.
public enum CopyDirection: Sendable {
    case fromGuest, toGuest
}

/// What a backend may do with pages that a guest granted to it.
///
/// One value belongs to one queue and is used from that queue's thread only (live: one gntdev descriptor per queue).
public protocol GrantTable: AnyObject {
    /// Maps the pages next to each other, in the order of `references`. Used for rings, not for data.
    ///
    /// - Throws: a `Fault` naming the reference or the map as a whole; nothing stays mapped then.
    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping

    /// Ends a mapping made by `map`; called by `GrantMapping` only.
    func unmap(_ base: UnsafeMutableRawPointer, pages: Int)

    /// Executes `count` segments, sets the `status` of each (`XEN_GNTST_*`) and returns how many failed; a failed
    /// segment fails alone.
    ///
    /// The segments' local sides lie in this process' private, page-aligned memory. Called once per chunk.
    func copy(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection) -> Int

    /// Makes copies to and from a part of this process' memory cheaper, if that can be done: it may consist of other pages
    /// afterwards, with other contents. Once at most.
    ///
    /// - Parameters:
    ///   - base: the first of whole pages of memory that was mapped for the purpose, and is unmapped no later than the table
    ///     ends.
    ///   - domain: the domain that this process belongs to.
    func favour(_ base: UnsafeMutableRawPointer, pages: Int, of domain: DomainID)
}

extension GrantTable {
    public func favour(_ base: UnsafeMutableRawPointer, pages: Int, of domain: DomainID) {}
}

/// Granted pages mapped next to each other, unmapped when the value goes.
@safe public struct GrantMapping: ~Copyable {
    /// The first byte of the first page. Guest-writable at any time: copy out, never look twice.
    public let base: UnsafeMutableRawPointer
    /// Pages of 4,096 bytes.
    public let pages: Int
    private let table: any GrantTable

    /// Wraps a mapping that `table` has made.
    public init(base: UnsafeMutableRawPointer, pages: Int, table: any GrantTable) {
        unsafe self.base = base
        self.pages = pages
        self.table = table
    }

    deinit {
        // The table made this mapping and has not unmapped it: only this deinit calls unmap.
        unsafe table.unmap(base, pages: pages)
    }
}

extension xen_grant_copy_segment {
    /// A segment that fills local memory from a guest's page.
    ///
    /// - Parameters:
    ///   - offset: the first byte within the granted page; `offset + length` is at most 4,096.
    @inlinable @_noLocks
    public static func fromGuest(
        _ domain: DomainID, _ reference: GrantReference, offset: UInt16, length: UInt16,
        to local: UnsafeMutableRawPointer
    ) -> Self {
        Self(
            source: foreign(domain, reference, offset), dest: UInt64(UInt(bitPattern: local)),
            length: length, flags: UInt16(XEN_GNTCOPY_source_gref), status: 0, pad: 0)
    }

    /// A segment that fills part of a guest's page from local memory.
    @inlinable @_noLocks
    public static func toGuest(
        _ domain: DomainID, _ reference: GrantReference, offset: UInt16, length: UInt16,
        from local: UnsafeMutableRawPointer
    ) -> Self {
        Self(
            source: UInt64(UInt(bitPattern: local)), dest: foreign(domain, reference, offset),
            length: length, flags: UInt16(XEN_GNTCOPY_dest_gref), status: 0, pad: 0)
    }

    @inlinable @_noLocks
    static func foreign(_ domain: DomainID, _ reference: GrantReference, _ offset: UInt16) -> UInt64 {
        UInt64(reference.rawValue) | UInt64(offset) << 32 | UInt64(domain.rawValue) << 48
    }
}
