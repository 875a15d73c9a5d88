public import Descriptors

/// libaio on one file, for hosts where io_uring is forbidden: the same behaviour, with more system calls.
///
/// io_submit(2) works a buffered file off before it returns, so this engine blocks in `submit` unless the file is open
/// with O_DIRECT. Flushes never do: since Linux 4.18 the kernel runs IOCB_CMD_FDSYNC on a worker of its own, and answers
/// EINVAL only where fdatasync(2) does. Unlike io_uring's, its operations end before the process' last trace goes.
public final class AioEngine: Engine {
    // One thread calls, and no call comes back here: nothing for exclusivity checks to find.
    @exclusivity(unchecked) private var core: AioCore
    public let capacity: Int

    /// An engine for up to `capacity` operations in flight on the open `file`.
    public init(file: Int32, capacity: Int) throws(Fault) {
        unsafe core = try AioCore(file: file, capacity: capacity)
        self.capacity = capacity
    }

    public func watch(event: Int32, control: Int32, takingEvents: Bool) {
        unsafe core.watched = WatchedDescriptors(event: event, control: control)
    }

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        unsafe core.submit(operations, count: count)
    }

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        unsafe core.reap(completions, capacity: capacity)
    }

    /// libaio has no registered buffers.
    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool { false }

    public func unregister(slab: UInt16) {}

    /// Operations have started when `submit` returns.
    public func flush() {}

    public var takesEvents: Bool { false }

    public func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons {
        unsafe core.wait(nanoseconds: limit.nanoseconds)
    }
}
