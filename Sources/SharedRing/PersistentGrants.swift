public import CXen
public import Descriptors
internal import Synchronization
public import XenWire

/// How many of guests' pages may stay mapped at a time, for all queues of a process: each is a memory area of its own, and
/// a process has 65,530 of those (`vm.max_map_count`).
public final class MappedPageBudget: Sendable {
    private let left: Atomic<Int>

    /// - Parameter pages: of 4,096 bytes.
    public init(pages: Int = 32_768) {
        left = Atomic(pages)
    }

    /// Takes one; false if there is none left.
    func take() -> Bool {
        if left.subtract(1, ordering: .relaxed).newValue >= 0 { return true }
        giveBack(1)
        return false
    }

    func giveBack(_ pages: Int) { left.add(pages, ordering: .relaxed) }
}

/// Persistent grants (xen/io/blkif.h, `feature-persistent`) in front of a grant table: a page that was copied from or to
/// stays mapped, and the next copy needs no call.
///
/// The frontend has promised that a reference means the same page for as long as the backend maps it; Xen holds it to
/// that. What cannot be mapped is copied by the table behind, as without persistent grants.
public final class PersistentGrants: GrantTable {
    private let table: any GrantTable
    private let domain: DomainID
    private let budget: MappedPageBudget
    /// By reference; see `place`.
    private let places: FixedTable<Place>
    private var mappings: [PersistentPage] = []
    /// How often a page may still be mapped, or fail to be.
    private var tries: Int

    /// Pages of one queue: what Linux' blkback keeps of a ring of 32 requests (xen_blkif_max_pgrants).
    public static let pagesPerQueue = 1056
    private static let placeBits = 11

    private struct Place: BitwiseCopyable {
        /// Of the page, in this process; 0: nothing here.
        var address: UInt
        var reference: UInt32
    }

    /// - Parameters:
    ///   - table: maps and copies.
    ///   - domain: whose pages.
    public init(before table: any GrantTable, of domain: DomainID, budget: MappedPageBudget) {
        self.table = table
        self.domain = domain
        self.budget = budget
        places = FixedTable(repeating: Place(address: 0, reference: 0), count: 1 << Self.placeBits)
        tries = Self.pagesPerQueue
    }

    deinit { budget.giveBack(mappings.count) }

    public func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        try table.map(references, of: domain, writable: writable)
    }

    public func unmap(_ base: UnsafeMutableRawPointer, pages: Int) { unsafe table.unmap(base, pages: pages) }

    public func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        var failures = 0
        var done = 0
        // The caller answers for `count` segments; all indices stay below it.
        for index in 0..<count {
            guard unsafe move(&segments[index], direction) else { continue }
            if done < index { failures &+= unsafe table.copy(segments + done, count: index &- done, direction) }
            done = index &+ 1
        }
        if done < count { failures &+= unsafe table.copy(segments + done, count: count &- done, direction) }
        return failures
    }

    /// Copies one segment, if its page is or can be mapped.
    @inline(__always)
    private func move(_ segment: inout xen_grant_copy_segment, _ direction: CopyDirection) -> Bool {
        let foreign = direction == .toGuest ? segment.dest : segment.source
        let local = direction == .toGuest ? segment.source : segment.dest
        let offset = UInt(UInt16(truncatingIfNeeded: foreign >> 32))
        guard foreign >> 48 == UInt64(domain.rawValue), offset &+ UInt(segment.length) <= UInt(XEN_PAGE_SIZE_BYTES),
            let address = address(of: UInt32(truncatingIfNeeded: foreign)),
            let page = unsafe UnsafeMutableRawPointer(bitPattern: address &+ offset),
            let memory = unsafe UnsafeMutableRawPointer(bitPattern: UInt(local))
        else { return false }
        // `page` lies in a mapped page, with `length` bytes to its end; `memory` is the caller's, as long (GrantTable).
        if direction == .toGuest {
            unsafe xen_copy_bytes(page, memory, Int(segment.length))
        } else {
            unsafe xen_copy_bytes(memory, page, Int(segment.length))
        }
        segment.status = Int16(XEN_GNTST_okay)
        return true
    }

    // MARK: Pages

    /// Where a page is mapped; maps it if it is not and may be.
    @inline(__always) private func address(of reference: UInt32) -> UInt? {
        let place = place(of: reference)
        let address = places[place].address
        return address != 0 ? address : keep(reference, at: place)
    }

    /// The reference's place, or the free one where it belongs. The table is never more than half full, so there is one.
    @inline(__always) private func place(of reference: UInt32) -> Int {
        // Fibonacci hashing spreads what frontends number consecutively.
        var place = Int((reference &* 0x9E37_79B9) >> UInt32(32 &- Self.placeBits))
        while places[place].address != 0, places[place].reference != reference {
            place = (place &+ 1) & (places.count &- 1)
        }
        return place
    }

    /// Maps a page for good. Writable, whatever it is wanted for now: the frontend will use it for both.
    @inline(never) private func keep(_ reference: UInt32, at place: Int) -> UInt? {
        guard tries > 0, budget.take() else { return nil }
        tries &-= 1
        do throws(Fault) {
            let page = PersistentPage(try table.map([GrantReference(reference)], of: domain, writable: true))
            mappings.append(page)
            places[place] = Place(address: page.address, reference: reference)
            return page.address
        } catch {
            budget.giveBack(1)
            return nil
        }
    }
}

/// A mapping in an array.
private final class PersistentPage {
    private let mapping: GrantMapping

    init(_ mapping: consuming GrantMapping) { self.mapping = mapping }

    var address: UInt { unsafe UInt(bitPattern: mapping.base) }
}
