internal import CXen
internal import SharedRing
internal import XenWire

/// Segments of one grant copy. Each carries, in the padding that neither Xen nor Linux looks at, its `Owner`;
/// the segments of one owner lie next to each other.
struct CopyBatch: ~Copyable {
    /// Enough for a chunk of 32 requests of 11 segments, or one part of the largest kind.
    @inline(__always) static var capacity: Int { 512 }
    let segments: FixedTable<xen_grant_copy_segment>
    private(set) var count = 0

    init() {
        let empty = xen_grant_copy_segment(source: 0, dest: 0, length: 0, flags: 0, status: 0, pad: 0)
        segments = FixedTable(repeating: empty, count: Self.capacity)
    }

    @inline(__always) var isFull: Bool { count == Self.capacity }

    @inline(__always) func hasRoom(for segments: Int) -> Bool { count &+ segments <= Self.capacity }

    /// Adds one segment; the caller has asked for room.
    @inline(__always) mutating func append(_ segment: xen_grant_copy_segment, of owner: UInt16) {
        let next = unsafe segments.element(count)
        unsafe next.pointee = segment
        unsafe next.pointee.pad = owner
        count &+= 1
    }

    /// Adds a judged segment (`first_sect <= last_sect <= 7`, so offset + length <= 4,096); the caller has asked for room.
    @inline(__always)
    mutating func append(
        _ segment: blkif_segment_wire, local: UnsafeMutableRawPointer, of owner: UInt16, _ domain: DomainID,
        _ direction: CopyDirection
    ) {
        let offset = UInt16(segment.first_sect) &* 512
        let length = (UInt16(segment.last_sect) &- UInt16(segment.first_sect) &+ 1) &* 512
        let reference = GrantReference(segment.gref)
        switch direction {
        case .fromGuest:
            unsafe append(.fromGuest(domain, reference, offset: offset, length: length, to: local), of: owner)
        case .toGuest:
            unsafe append(.toGuest(domain, reference, offset: offset, length: length, from: local), of: owner)
        }
    }

    /// Adds some of a request's judged segments; the caller has asked for room.
    ///
    /// - Parameter local: private memory for all of them, one after the other.
    mutating func append(
        _ table: UnsafePointer<blkif_segment_wire>, count: Int, local: UnsafeMutableRawPointer, of owner: UInt16,
        _ domain: DomainID, _ direction: CopyDirection
    ) {
        var local = unsafe local
        for next in 0..<count {
            let segment = unsafe table[next]
            unsafe append(segment, local: local, of: owner, domain, direction)
            unsafe local += (Int(segment.last_sect) - Int(segment.first_sect) + 1) * 512
        }
    }

    /// The owner of the segments from `start`, and where the next owner's begin.
    @inline(__always) func owner(at start: Int) -> (owner: UInt16, next: Int) {
        let owner = unsafe segments.element(start).pointee.pad
        var next = start &+ 1
        while unsafe next < count && segments.element(next).pointee.pad == owner { next &+= 1 }
        return (owner, next)
    }

    /// Whether all of these segments were copied.
    func succeeded(_ range: Range<Int>) -> Bool {
        range.allSatisfy { segments[$0].status == Int16(XEN_GNTST_okay) }
    }

    @inline(__always) mutating func clear() { count = 0 }
}
