internal import CXen
internal import SharedRing
internal import Uring
internal import XenWire

/// What is known of a general request between taking and answering, beside its copy in the in-flight table. (Of a
/// page request there is a `PageRequest`.)
@safe struct Slot: BitwiseCopyable {
    /// The request's segments: in its copy, or in a segment table of the buffer pool.
    var segments: UnsafePointer<blkif_segment_wire>?
    /// Where the next part begins on the device.
    var sector: UInt64 = 0
    /// When it was taken, nanoseconds.
    var started: UInt64 = 0
    /// All its sectors.
    var sectors: UInt32 = 0
    /// The first segment that has no part yet.
    var nextSegment: UInt16 = 0
    /// All its segments.
    var segmentCount: UInt16 = 0
    /// Parts that are under way.
    var parts: UInt16 = 0
    /// The block that holds the segment table, or `noBlock`.
    var table: UInt16 = Slot.noBlock
    /// The outcome so far.
    var status: BlockStatus = .okay
    /// What to do.
    var operation: BlockOperation = .read
    /// How far a request of several steps has come.
    var step: Step = .data
    /// The segment table's size as a power of two of pages.
    var tableOrder: UInt8 = 0
    /// Sectors that a discard asks for.
    var discardSectors: UInt64 = 0
    /// It is on the list of requests that wait for memory.
    var isStalled = false

    /// The steps of requests that are more than data.
    enum Step: UInt8 {
        /// Waiting for memory for its segment table.
        case awaitsTable
        /// A barrier behind requests that are not answered.
        case awaitsDevice
        /// Making earlier writes durable before a barrier's or a flush's own data.
        case flushBefore
        /// Reading or writing its segments.
        case data
        /// Making a barrier's own data durable.
        case flushAfter
    }

    @inline(__always) static var noBlock: UInt16 { .max }
}

/// A stretch of a request that is one operation on the volume: contiguous there and in one buffer block.
@safe struct Part: BitwiseCopyable {
    /// The block's memory.
    var buffer: UnsafeMutableRawPointer?
    /// Where the operation begins on the volume, bytes.
    var offset: UInt64 = 0
    /// Bytes of the operation.
    var length: UInt32 = 0
    /// Bytes of it that are done (short I/O is continued).
    var done: UInt32 = 0
    /// The request it belongs to.
    var slot: UInt16 = 0
    /// Its segments in the request.
    var firstSegment: UInt16 = 0
    var segmentCount: UInt16 = 0
    /// The block, for giving it back, or `Slot.noBlock`.
    var block: UInt16 = Slot.noBlock
    /// Bytes between the buffer's start and the request's first byte: the head of a read-modify-write.
    var lead: UInt16 = 0
    /// The block's size as a power of two of pages.
    var order: UInt8 = 0
    /// Times that it was tried again.
    var attempts: UInt8 = 0
    /// Bytes that a discard gives back.
    var discardBytes: UInt64 = 0
    /// What is happening to it.
    var stage: Stage = .read

    /// `order` of a part that uses its entry's own page.
    static var ownPage: UInt8 { .max }

    /// What is happening to a part.
    enum Stage: UInt8 {
        /// Data on its way from the volume to the guest.
        case read
        /// Data on its way from the guest to the volume.
        case write
        /// Reading the blocks that an unaligned write will change.
        case fill
        /// fdatasync.
        case synchronize
        /// On the discard lane.
        case discard
    }
}

/// A first-in first-out list of table indices (or marked indices), each on it at most once.
struct IndexQueue: ~Copyable {
    private let indices: FixedTable<UInt32>
    private var head = 0
    private(set) var count = 0

    init(capacity: Int) { indices = FixedTable(repeating: 0, count: capacity) }

    var isEmpty: Bool { @_noLocks get { count == 0 } }

    @_noLocks mutating func append(_ index: UInt32) {
        let end = head &+ count
        indices[end < indices.count ? end : end &- indices.count] = index
        count &+= 1
    }

    /// The index that has waited longest.
    var first: UInt32? { @_noLocks get { count == 0 ? nil : indices[head] } }

    @_noLocks mutating func removeFirst() {
        guard count > 0 else { return }
        head = head &+ 1 < indices.count ? head &+ 1 : 0
        count &-= 1
    }
}
