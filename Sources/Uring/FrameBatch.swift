internal import CLinux
internal import Descriptors

/// Writes to one descriptor, many in a system call: frames for a TAP device, which has no sendmmsg(2). Where io_uring is off,
/// each is a system call of its own.
///
/// Made and used on one thread. Between two calls nothing is outstanding: a TAP device takes or refuses a frame at once, so
/// each write ends while it is submitted. Frames are read by `FrameReads`.
@safe public struct FrameBatch: ~Copyable {
    /// Frames of a batch at most.
    public let capacity: Int
    /// Frames that were added.
    public private(set) var count = 0
    private let file: Int32
    private let entries: UnsafeMutablePointer<FrameEntry>
    private var ring: UringRing?
    /// The ring takes no more entries (never the case in normal life).
    private var hasFailed = false

    /// Longer frames are written by calls of their own: what is saved is nothing beside their copy, and in a batch each would
    /// find the caches full of the others (io_uring was measured at 0.8 of write(2) with 64 KiB).
    private static var longest: UInt32 { @_noLocks get { 8192 } }

    /// - Parameters:
    ///   - file: outlives the batch.
    ///   - usesRing: false makes each frame a system call.
    public init(file: Int32, capacity: Int, usesRing: Bool = true) {
        self.file = file
        self.capacity = capacity
        unsafe entries = .allocate(capacity: capacity)
        unsafe entries.initialize(repeating: FrameEntry(), count: capacity)
        ring = usesRing ? Self.makeRing(file, capacity) : nil
    }

    deinit { unsafe entries.deallocate() }

    private static func makeRing(_ file: Int32, _ capacity: Int) -> UringRing? {
        do throws(Fault) {
            var ring = try UringRing(entries: UInt32(clamping: capacity))
            try ring.enable(files: [file], submissions: UringSetup.frameSubmissions)
            return ring
        } catch {
            return nil
        }
    }

    /// Begins anew.
    @_noLocks public mutating func clear() { count = 0 }

    /// Adds a frame to be written, which stays where it is until `run`; no more than `capacity`.
    @_noLocks public mutating func add(_ bytes: UnsafeMutableRawPointer, _ length: Int) {
        precondition(count < capacity)
        // Checked above.
        unsafe entries[count] = FrameEntry(bytes: bytes, length: UInt32(truncatingIfNeeded: length), result: 0)
        count &+= 1
    }

    /// Bytes of a frame that was written, or -errno.
    @_noLocks public mutating func result(_ index: Int) -> Int32 {
        precondition(index < count)
        return unsafe entries[index].result
    }

    /// Writes all frames, in their order.
    @_noLocks public mutating func run() {
        var start = 0
        while start < count {
            let end = endOfShort(start)
            if end &- start > 1 && !hasFailed {
                submit(start, end)
                start = end
            } else {
                unsafe write(&entries[start])
                start &+= 1
            }
        }
    }

    /// Where the short frames from `start` on end.
    @_noLocks private func endOfShort(_ start: Int) -> Int {
        var end = start
        // Entries below `count`.
        while unsafe end < count && entries[end].length <= Self.longest { end &+= 1 }
        return end
    }

    @_noLocks private func write(_ entry: inout FrameEntry) {
        guard let bytes = unsafe entry.bytes else { return }
        // The caller answers for the frame's memory.
        let result = unsafe linux_frame_write(file, bytes, Int(entry.length))
        unsafe entry.result = Int32(truncatingIfNeeded: result)
    }

    @_noLocks private mutating func submit(_ start: Int, _ end: Int) {
        guard ring != nil else { return writeEach(start, end) }
        for index in start..<end {
            guard let slot = unsafe ring?.nextEntry() else { continue }
            let entry = unsafe entries[index]
            // One registered file; the ring has as many entries as the batch. The tag is the frame's number.
            unsafe linux_sqe_transfer(
                slot, UInt8(truncatingIfNeeded: IORING_OP_WRITE.rawValue), linux_sqe_fixed_file, 0, entry.bytes,
                entry.length, 0, 0, UInt64(index))
        }
        collect(end &- start)
    }

    @_noLocks private func writeEach(_ start: Int, _ end: Int) {
        for index in start..<end { unsafe write(&entries[index]) }
    }

    @_noLocks private mutating func collect(_ submitted: Int) {
        var left = submitted
        note(ring?.enter() ?? 0)
        while left > 0 {
            left &-= take()
            guard left > 0 else { return }
            if hasFailed { left &-= giveBack() } else { note(ring?.enterAndWait(nanoseconds: .max) ?? 0) }
        }
    }

    /// What the kernel cannot take now goes with the next call.
    @_noLocks private mutating func note(_ result: Int32) {
        switch -result {
        case EAGAIN, EBUSY, EINTR, ENOMEM: break
        case let code where code > 0: hasFailed = true
        default: break
        }
    }

    @_noLocks private mutating func take() -> Int {
        let ready = ring?.ready ?? 0
        var left = ready
        while left > 0, let end = ring?.first {
            // A number of ours, below `count`.
            unsafe entries[Int(end.user_data)].result = end.res
            ring?.advance()
            left &-= 1
        }
        ring?.release()
        return Int(ready)
    }

    /// Frames that a failed ring never took.
    @_noLocks private mutating func giveBack() -> Int {
        var given = 0
        while let tag = ring?.withdraw() ?? nil {
            unsafe entries[Int(tag)].result = -ECANCELED
            given &+= 1
        }
        return given
    }
}

/// A frame's memory, and what came of it.
@unsafe struct FrameEntry: BitwiseCopyable {
    var bytes: UnsafeMutableRawPointer?
    var length: UInt32 = 0
    var result: Int32 = 0
}
