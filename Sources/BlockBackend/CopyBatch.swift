internal import CXen
internal import SharedRing
internal import XenWire

/// Segments of one grant copy. Each carries, in the padding that neither Xen nor Linux looks at, the part or segment
/// table that it belongs to; the segments of one owner lie next to each other.
struct CopyBatch: ~Copyable {
    /// Enough for a chunk of 32 requests of 11 segments, or one part of the largest kind.
    @inline(__always) static var capacity: Int { 512 }
    /// Marks an owner as a request's segment table; without it, it is a part.
    @inline(__always) static var tableMark: UInt16 { 1 << 15 }

    let segments: FixedTable<xen_grant_copy_segment>
    private(set) var count = 0

    init() {
        let empty = xen_grant_copy_segment(source: 0, dest: 0, length: 0, flags: 0, status: 0, pad: 0)
        segments = FixedTable(repeating: empty, count: Self.capacity)
    }

    @inline(__always) func hasRoom(for segments: Int) -> Bool { count &+ segments <= Self.capacity }

    /// Adds one segment; the caller has asked for room.
    @inline(__always) mutating func append(_ segment: xen_grant_copy_segment, of owner: UInt16) {
        let next = unsafe segments.element(count)
        unsafe next.pointee = segment
        unsafe next.pointee.pad = owner
        count &+= 1
    }

    /// Adds some of a request's segments; the caller has asked for room.
    ///
    /// - Parameters:
    ///   - table: judged segments: `first_sect <= last_sect <= 7`, so offset + length <= 4,096.
    ///   - local: private memory for all of them, one after the other.
    @inline(__always)
    mutating func append(
        _ table: UnsafePointer<blkif_segment_wire>, count: Int, local: UnsafeMutableRawPointer, of owner: UInt16,
        _ domain: DomainID, _ direction: CopyDirection
    ) {
        var local = unsafe local
        var next = 0
        repeat {
            let segment = unsafe table[next]
            let offset = UInt16(segment.first_sect) &* 512
            let length = (UInt16(segment.last_sect) &- UInt16(segment.first_sect) &+ 1) &* 512
            let reference = GrantReference(segment.gref)
            switch direction {
            case .fromGuest:
                unsafe append(.fromGuest(domain, reference, offset: offset, length: length, to: local), of: owner)
            case .toGuest:
                unsafe append(.toGuest(domain, reference, offset: offset, length: length, from: local), of: owner)
            }
            unsafe local += Int(length)
            next &+= 1
        } while next < count
    }

    /// The owner of the segments from `start`, whether all of them were copied, and where the next owner's begin.
    @inline(__always) func owner(at start: Int) -> (owner: UInt16, succeeded: Bool, next: Int) {
        let owner = unsafe segments.element(start).pointee.pad
        var succeeded = true
        var next = start
        repeat {
            if unsafe segments.element(next).pointee.status != Int16(XEN_GNTST_okay) { succeeded = false }
            next &+= 1
        } while unsafe next < count && segments.element(next).pointee.pad == owner
        return (owner, succeeded, next)
    }

    @inline(__always) mutating func clear() { count = 0 }
}
