internal import CLinux
internal import Descriptors
internal import Glibc
internal import SharedRing

/// Private, page-aligned memory through which a queue's data passes.
///
/// One reservation of address space with a ceiling in bytes, used in slabs of up to 1 MiB that are brought in when
/// needed and given back when the queue has been idle: memory follows what is in flight. Blocks are powers of two
/// pages; freed blocks are used again first (they are warm), and merged into larger ones only when those run out.
@safe struct BufferPool: ~Copyable {
    static var pageSize: Int { @_noLocks get { 4096 } }
    /// Blocks are at most 2^5 pages, 128 KiB.
    static var maximumOrder: Int { @_noLocks get { 5 } }
    static var slabPages: Int { @_noLocks get { 256 } }
    /// Enough for the largest segment table and one data block beside it.
    static var minimumCeiling: Int { 256 * 1024 }

    private let base: UnsafeMutableRawPointer
    private let pages: Int
    /// The first pages, which are not handed out as blocks: each belongs to one entry of the in-flight table.
    private let reserved: Int
    /// Free blocks by order, each list in its own part of one table, from `bottoms` up to and without `tops`.
    private let lists: FixedTable<UInt16>
    private let tops: FixedTable<Int>
    private let bottoms: FixedTable<Int>
    private var mayMerge = false
    /// Slabs brought in so far.
    private(set) var slabs = 0

    /// Reserves address space for `ceiling` bytes, rounded down to whole blocks; no memory yet.
    ///
    /// - Parameter reserved: pages wanted for entries, a multiple of the largest block; granted if they are not more
    ///   than half the ceiling.
    init(ceiling: Int, reserved: Int = 0) throws(Fault) {
        let rounded = max(ceiling, Self.minimumCeiling) & ~(Self.pageSize << Self.maximumOrder - 1)
        pages = min(rounded / Self.pageSize, 1 << 15)
        self.reserved = reserved <= pages / 2 ? reserved : 0
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        let memory = unsafe mmap(nil, pages * Self.pageSize, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            throw Fault("reserve \(ceiling) bytes of buffer memory", errno: errno)
        }
        unsafe base = memory
        lists = FixedTable(repeating: 0, count: pages * 2)
        tops = FixedTable(repeating: 0, count: Self.maximumOrder + 1)
        bottoms = FixedTable(repeating: 0, count: Self.maximumOrder + 1)
        for order in 0...Self.maximumOrder {
            // Order n has at most pages / 2^n blocks.
            bottoms[order] = pages * 2 - (pages * 2) >> order
            tops[order] = bottoms[order]
        }
    }

    deinit { unsafe munmap(base, pages * Self.pageSize) }

    /// Bytes that the pool may hold.
    var ceiling: Int { pages * Self.pageSize }
    /// Bytes of slabs brought in.
    var resident: Int { min(slabs * Self.slabPages, pages) * Self.pageSize }

    /// A block of 2^order pages by its first page, or nil when there is none without growing or merging.
    mutating func allocate(order: Int) -> UInt16? {
        var larger = order
        while isEmpty(larger) {
            guard larger < Self.maximumOrder else { return nil }
            larger &+= 1
        }
        let page = pop(larger)
        split(page, from: larger, to: order)
        return page
    }

    /// A block of just that size that was used before, if there is one: the short way of `allocate`.
    @inline(__always) mutating func reuse(order: Int) -> UInt16? {
        guard !isEmpty(order) else { return nil }
        return pop(order)
    }

    /// Gives a block back.
    @inline(__always) mutating func release(_ page: UInt16, order: Int) {
        mayMerge = true
        push(page, order)
    }

    /// Where a block's memory begins; valid as long as the pool lives.
    @inline(__always) func address(_ page: UInt16) -> UnsafeMutableRawPointer {
        assert(Int(page) < pages)
        return unsafe base + Int(page) &* Self.pageSize  // blocks come from `allocate` only
    }

    /// The slab that a block lies in.
    @inline(__always) static func slab(of page: UInt16) -> UInt16 { page / UInt16(slabPages) }

    /// Pages that may be handed out in blocks.
    var blockPages: Int { pages - reserved }
    /// Whether entries have pages of their own.
    var reservesPages: Bool { reserved > 0 }
    /// Whether the slabs of the reserved pages are brought in.
    var hasReservedPages: Bool { slabs * Self.slabPages >= reserved }

    /// Whether another slab may be brought in.
    var canGrow: Bool { slabs * Self.slabPages < pages }

    /// Brings in the next slab and returns its memory, for registration.
    mutating func grow() -> UnsafeMutableRawBufferPointer {
        let first = slabs * Self.slabPages
        let end = min(first + Self.slabPages, pages)
        slabs += 1
        var page = end
        while page > max(first, reserved) {
            page -= 1 << Self.maximumOrder
            push(UInt16(page), Self.maximumOrder)
        }
        return unsafe UnsafeMutableRawBufferPointer(
            start: base + first * Self.pageSize, count: (end - first) * Self.pageSize)
    }

    /// Gives all memory back to the system; only while nothing is handed out.
    mutating func shrink() {
        guard slabs > 0 else { return }
        for order in 0...Self.maximumOrder { tops[order] = bottoms[order] }
        // Only pages that this pool reserved; their content is no one's any more.
        unsafe madvise(base, resident, MADV_DONTNEED)
        slabs = 0
    }

    /// Merges free neighbours into larger blocks; false if nothing was freed since the last time.
    mutating func merge() -> Bool {
        guard mayMerge else { return false }
        mayMerge = false
        for order in 0..<Self.maximumOrder { mergeBlocks(of: order) }
        return true
    }

    /// Sorts the free blocks of one order by marking them, then lifts every complete pair to the next order.
    private mutating func mergeBlocks(of order: Int) {
        let marks = FixedTable<Bool>(repeating: false, count: pages >> order)
        while !isEmpty(order) { marks[Int(pop(order)) >> order] = true }
        for block in 0..<marks.count where marks[block] {
            let buddy = block ^ 1
            if buddy < marks.count, marks[buddy] {
                if block < buddy { push(UInt16(block << order), order + 1) }
            } else {
                push(UInt16(block << order), order)
            }
        }
    }

    private mutating func split(_ page: UInt16, from larger: Int, to order: Int) {
        var order = order
        // Upper halves go to the lists, so that neighbours are handed out in rising order.
        while order < larger {
            push(page &+ UInt16(truncatingIfNeeded: 1 &<< order), order)
            order &+= 1
        }
    }

    // Orders are 0...maximumOrder, and a list has room for all blocks of its order: the accesses need no check.

    @inline(__always) private func isEmpty(_ order: Int) -> Bool {
        unsafe tops.element(order).pointee == bottoms.element(order).pointee
    }

    @inline(__always) private func push(_ page: UInt16, _ order: Int) {
        let top = unsafe tops.element(order).pointee
        unsafe lists.element(top).pointee = page
        unsafe tops.element(order).pointee = top &+ 1
    }

    @inline(__always) private func pop(_ order: Int) -> UInt16 {
        let top = unsafe tops.element(order).pointee &- 1
        unsafe tops.element(order).pointee = top
        return unsafe lists.element(top).pointee
    }
}
