internal import CLinux
public import Descriptors

/// Reads from one descriptor, many in a system call: frames of a TAP device, which has no recvmmsg(2), where it is known that
/// so many are probably there.
///
/// A read that finds nothing does not end but waits in the ring for the next frame, O_NONBLOCK or not, because TAP devices do
/// not know RWF_NOWAIT (6.18). So those that are left over are cancelled, which costs more than they would have saved: whoever
/// asks for too many too often had better read one by one. Between two calls nothing is outstanding.
///
/// Made and used on one thread.
@safe public struct FrameReads: ~Copyable {
    /// Frames of a call at most.
    public static var capacity: Int { @_noLocks get { 64 } }
    /// Frames of the last call, and the longest of them in bytes.
    public private(set) var count = 0
    public private(set) var longest = 0
    /// Why the last call ended early, if not for lack of frames: errno.
    public private(set) var failure: Int32 = 0
    private var ring: UringRing
    /// The kernel would not wait for what it has taken (never the case in normal life): nothing is given to it any more.
    private var isAbandoned = false

    private static var file: Int32 { @_noLocks get { 0 } }
    private static var cancellation: UInt64 { @_noLocks get { .max } }

    /// - Parameter file: outlives the value. Without O_NONBLOCK the same happens.
    /// - Throws: where io_uring is off, or older than 6.0.
    public init(file: Int32) throws(Fault) {
        // A power of two that has room for the cancellation as well.
        var ring = try UringRing(entries: UInt32(Self.capacity) * 2)
        try ring.enable(files: [file], submissions: UringSetup.frameSubmissions)
        try Self.probe(&ring)
        self.ring = ring
    }

    /// Cancels nothing, to see whether it can be done.
    private static func probe(_ ring: inout UringRing) throws(Fault) {
        unsafe linux_sqe_cancel_all(ring.nextEntry(), file, cancellation)
        while ring.ready == 0 {
            let result = ring.enterAndWait(nanoseconds: .max)
            guard result >= 0 || result == -EINTR || result == -EAGAIN else {
                throw Fault("io_uring_enter", errno: -result)
            }
        }
        let result = ring.first.res
        ring.advance()
        ring.release()
        guard result >= 0 || result == -ENOENT else { throw Fault("cancel reads in io_uring", errno: -result) }
    }

    /// Reads up to `wanted` frames, `capacity` at most, each to a place of its own.
    ///
    /// - Parameters:
    ///   - base: what offsets count from.
    ///   - places: the offsets of places, `wanted` of them.
    ///   - room: bytes of a place.
    ///   - frames: takes what was read, in the order in which it came: `wanted` elements.
    @_noLocks public mutating func read(
        _ wanted: Int, to base: UnsafeMutableRawPointer, places: UnsafePointer<UInt32>, room: UInt32,
        into frames: UnsafeMutablePointer<ReadFrame>
    ) {
        count = 0
        longest = 0
        guard !isAbandoned else { return }
        failure = 0
        let wanted = min(wanted, Self.capacity)
        for index in 0..<wanted {
            // The caller answers for the places. One registered file; the tag is the place.
            let place = unsafe places[index]
            unsafe linux_sqe_transfer(
                ring.nextEntry(), UInt8(truncatingIfNeeded: IORING_OP_READ.rawValue), linux_sqe_fixed_file, Self.file,
                base + Int(place), room, 0, 0, UInt64(place))
        }
        enter()
        var left = unsafe wanted &- take(frames)
        left &-= giveBack()
        if left > 0 { unsafe end(left, frames) }
    }

    /// Cancels what found no frame. One that comes meanwhile may still be read.
    @_noLocks private mutating func end(_ outstanding: Int, _ frames: UnsafeMutablePointer<ReadFrame>) {
        unsafe linux_sqe_cancel_all(ring.nextEntry(), Self.file, Self.cancellation)
        var left = outstanding &+ 1
        while left > 0 {
            let result = ring.enterAndWait(nanoseconds: .max)
            left &-= unsafe take(frames)
            if isLasting(result) { return abandon(-result) }
        }
    }

    @_noLocks private mutating func abandon(_ code: Int32) {
        isAbandoned = true
        failure = code
    }

    @_noLocks private mutating func enter() {
        let result = ring.enter()
        if isLasting(result) { failure = -result }
    }

    @_noLocks private func isLasting(_ result: Int32) -> Bool {
        result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY && result != -ENOMEM
    }

    /// Reads that the kernel did not take.
    @_noLocks private mutating func giveBack() -> Int {
        var given = 0
        while ring.withdraw() != nil { given &+= 1 }
        return given
    }

    /// Operations that ended.
    @_noLocks private mutating func take(_ frames: UnsafeMutablePointer<ReadFrame>) -> Int {
        let ready = ring.ready
        var left = ready
        while left > 0 {
            unsafe note(ring.first, frames)
            ring.advance()
            left &-= 1
        }
        ring.release()
        return Int(ready)
    }

    @_noLocks private mutating func note(_ end: io_uring_cqe, _ frames: UnsafeMutablePointer<ReadFrame>) {
        guard end.res > 0, end.user_data != Self.cancellation else { return noteOther(end) }
        // As many as were asked for at most.
        unsafe frames[count] = ReadFrame(offset: UInt32(truncatingIfNeeded: end.user_data), bytes: UInt32(end.res))
        count &+= 1
        if Int(end.res) > longest { longest = Int(end.res) }
    }

    @_noLocks private mutating func noteOther(_ end: io_uring_cqe) {
        let isNoFrame = end.res == -ECANCELED || end.res == -EAGAIN || end.res == -EINTR
        guard end.user_data != Self.cancellation, !isNoFrame else { return }
        failure = end.res == 0 ? EIO : -end.res
    }
}

/// A frame that was read.
public struct ReadFrame: BitwiseCopyable {
    /// Where it lies, by the caller's account.
    public var offset: UInt32 = 0
    public var bytes: UInt32 = 0

    public init(offset: UInt32 = 0, bytes: UInt32 = 0) {
        self.offset = offset
        self.bytes = bytes
    }
}
