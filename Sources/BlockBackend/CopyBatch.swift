internal import CXen
internal import SharedRing
internal import XenWire

/// Segments of one grant copy and the parts or segment tables that they belong to.
struct CopyBatch: ~Copyable {
    /// Enough for a chunk of 8 requests of 11 segments, or one part of the largest kind, with room to spare.
    static var capacity: Int { @_noLocks get { 512 } }

    let segments: FixedTable<xen_grant_copy_segment>
    private(set) var count = 0
    private let items: FixedTable<UInt32>
    private let ends: FixedTable<UInt16>
    private(set) var itemCount = 0

    init() {
        let empty = xen_grant_copy_segment(source: 0, dest: 0, length: 0, flags: 0, status: 0, pad: 0)
        segments = FixedTable(repeating: empty, count: Self.capacity)
        items = FixedTable(repeating: 0, count: Self.capacity)
        ends = FixedTable(repeating: 0, count: Self.capacity)
    }

    @_noLocks func hasRoom(for segments: Int) -> Bool { count &+ segments <= Self.capacity }

    @_noLocks mutating func append(_ segment: xen_grant_copy_segment) {
        segments[count] = segment
        count &+= 1
    }

    /// Adds the segments of a part.
    ///
    /// - Parameter table: the request's segments, judged: `first_sect <= last_sect <= 7`, so offset + length <= 4,096.
    @_noLocks
    mutating func append(
        _ part: Part, _ index: UInt16, _ table: UnsafePointer<blkif_segment_wire>, _ domain: DomainID,
        _ direction: CopyDirection
    ) {
        guard var local = unsafe part.buffer else { return }
        unsafe local += Int(part.lead)
        var next = Int(part.firstSegment)
        let end = next &+ Int(part.segmentCount)
        while next < end {
            let segment = unsafe table[next]  // a part's segments are some of its request's
            let length = (UInt16(segment.last_sect &- segment.first_sect) &+ 1) &* 512
            unsafe append(segment, length: length, local, domain, direction)
            unsafe local += Int(length)
            next &+= 1
        }
        close(UInt32(index))
    }

    @_noLocks
    private mutating func append(
        _ segment: blkif_segment_wire, length: UInt16, _ local: UnsafeMutableRawPointer, _ domain: DomainID,
        _ direction: CopyDirection
    ) {
        let offset = UInt16(segment.first_sect) &* 512
        let reference = GrantReference(segment.gref)
        switch direction {
        case .fromGuest: unsafe append(.fromGuest(domain, reference, offset: offset, length: length, to: local))
        case .toGuest: unsafe append(.toGuest(domain, reference, offset: offset, length: length, from: local))
        }
    }

    /// The segments appended since the last item are those of `item`.
    @_noLocks mutating func close(_ item: UInt32) {
        items[itemCount] = item
        ends[itemCount] = UInt16(truncatingIfNeeded: count)
        itemCount &+= 1
    }

    @_noLocks func item(_ index: Int) -> UInt32 { items[index] }

    /// Whether each segment of an item was copied.
    @_noLocks func succeeded(_ index: Int) -> Bool {
        var segment = index == 0 ? 0 : Int(ends[index &- 1])
        while segment < Int(ends[index]) {
            guard segments[segment].status == Int16(XEN_GNTST_okay) else { return false }
            segment &+= 1
        }
        return true
    }

    @_noLocks mutating func clear() {
        count = 0
        itemCount = 0
    }
}
