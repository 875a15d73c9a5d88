internal import Descriptors
internal import Glibc
internal import SharedRing
internal import Uring

/// Memory for the frames of a turn: of those from the guest or those that are cut for it, and of those that were read from the
/// TAP device. Each frame has room for its header in front.
///
/// A copy between two domains works on pages: what crosses a border on one side only costs two copies. So frames lie in their
/// pages as in the guest's, as far as that can be known, and small ones in one page each.
///
/// Safe because the memory lives as long as the value and offsets come from the queue's own account.
@safe struct FrameMemory: ~Copyable {
    /// Bytes in front of a frame: the virtio header ends where the frame begins.
    static var headroom: Int { @_noLocks get { 16 } }
    static var page: Int { @_noLocks get { 4096 } }
    /// The longest frame, with room for the header and alignment.
    static var largest: Int { @_noLocks get { 17 << 12 } }
    /// For frames that are cut, more than a full ring can hold.
    static var capacity: Int { @_noLocks get { 1 << 20 } }
    /// Frames from the guest that are copied and written together; and their bytes where they are long, so that they are
    /// still in a processor's cache when they are written: two of the longest.
    static var writes: Int { @_noLocks get { 256 } }
    static var written: Int { @_noLocks get { 36 << 12 } }
    /// Frames that are read and delivered together, and their bytes, for the same reason.
    static var reads: Int { @_noLocks get { 128 } }
    static var read: Int { @_noLocks get { 35 << 12 } }
    /// Bytes for a header and a frame that are read: what there is up to the next place, and more than any frame has.
    static var room: UInt32 { @_noLocks get { UInt32(largest &- (lines &+ 1) &* 64) } }
    /// Different lines in their pages in which places begin.
    private static var lines: Int { @_noLocks get { 32 } }
    /// The beginning, where the frames of a connection with large ones lie: those that are read one by one, then those from
    /// the guest that are written together.
    static var busyPages: Int { @_noLocks get { (received &+ written) / page } }
    private let base: UnsafeMutableRawPointer
    private let bytes: Int
    /// Where frames are read that are read together with others, each with room for the longest: in one page if they have an
    /// Ethernet's size, and in different lines of a processor's cache.
    let places: FixedTable<UInt32>

    /// What is not used of it takes no memory.
    init() throws(Fault) {
        bytes = Self.received + Self.capacity + FrameReads.capacity * Self.largest + Self.page
        places = FixedTable(repeating: 0, count: FrameReads.capacity)
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        // A mapping of its own, which `deinit` gives back.
        let memory = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            throw Fault("reserve \(bytes) bytes for frames", errno: errno)
        }
        unsafe base = memory
        for index in 0..<FrameReads.capacity {
            let line = 1 + index % Self.lines
            places[index] = UInt32(Self.received + Self.capacity + index * Self.largest + line * 64)
        }
    }

    deinit { unsafe munmap(base, bytes) }

    /// The first of `busyPages`.
    @unsafe var busy: UnsafeMutableRawPointer { unsafe base }

    /// Where a frame of `size` bytes begins, the memory up to `used` being taken: in one page if it can.
    @_noLocks static func start(_ used: Int, _ size: Int) -> Int {
        let start = (used &+ headroom &+ 63) & ~63
        let fits = size > page || start & (page &- 1) &+ size <= page
        return fits ? start : nextPage(start)
    }

    /// Where a frame begins whose byte number `first` lies at `offset` in its page: that is how the guest's second page of it
    /// is filled, and most of the following ones.
    @_noLocks static func start(_ used: Int, _ first: Int, at offset: Int) -> Int {
        let earliest = used &+ headroom
        return earliest &+ (offset &- first &- earliest) & (page &- 1)
    }

    @_noLocks private static func nextPage(_ offset: Int) -> Int { (offset &+ page &- 1) & ~(page &- 1) }

    /// The frame at `offset`, below `capacity`.
    @_noLocks func frame(_ offset: Int) -> UnsafeMutableRawPointer { unsafe base + Self.received + offset }

    /// Where the first frame that is read begins, the guest's wish for so many bytes in front of each being known: in its page
    /// as in the guest's.
    @_noLocks static func firstRead(_ wished: Int) -> Int { page &+ wished }

    /// Where the next frame is read behind one of `size` bytes, its own size not being known: long ones come behind long
    /// ones, and small ones behind small ones.
    @_noLocks static func nextRead(_ offset: Int, _ size: Int, _ wished: Int) -> Int {
        let next = (offset &+ size &+ headroom &+ 63) & ~63
        let isSmall = size <= page && next & (page &- 1) <= page / 2
        return isSmall ? next : nextPage(next) &+ wished
    }

    /// What frames that are read one by one take at most.
    private static var received: Int { @_noLocks get { page &+ read &+ largest } }

    /// What offsets of frames that were read count from: those are up to `page + read`, or places.
    @unsafe var receptions: UnsafeMutableRawPointer { @_noLocks get { unsafe base } }
}
