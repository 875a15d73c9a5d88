public import Descriptors

/// io_uring on one file: no system call per operation, none at all for completions that are there.
///
/// A ring belongs to the thread that made it (IORING_SETUP_SINGLE_ISSUER): make the engine on the queue's thread. Let all
/// operations end before the last reference goes; the kernel would still write into their buffers.
public final class UringEngine: Engine {
    // One thread calls, and no call comes back here: nothing for exclusivity checks to find.
    @exclusivity(unchecked) private var core: UringCore
    private let file: Int32
    public let capacity: Int

    /// An engine for up to `capacity` operations in flight on the open `file`, with registered buffers for slab
    /// numbers below `slabs` where the kernel has them. Opened for operations by `watch`.
    public init(file: Int32, capacity: Int, slabs: UInt16 = 256) throws(Fault) {
        unsafe core = try UringCore(capacity: capacity, slabs: UInt32(slabs))
        self.file = file
        self.capacity = capacity
    }

    /// Completions that found the completion queue full: 0, or the capacity account is wrong.
    public var overflows: UInt32 { unsafe core.overflows }

    public func watch(event: Int32, control: Int32, takingEvents: Bool) throws(Fault) {
        unsafe try core.enable(
            file: file, watching: WatchedDescriptors(event: event, control: control), takingEvents: takingEvents)
    }

    public var takesEvents: Bool { unsafe core.takesEvents }

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        unsafe core.submit(operations, count: count, lazily: lazily)
    }

    public func flush() {
        unsafe core.flushLazy()
    }

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        unsafe core.reap(completions, capacity: capacity)
    }

    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool {
        unsafe core.register(slab: slab, memory)
    }

    public func unregister(slab: UInt16) {
        unsafe core.unregister(slab: slab)
    }

    public func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons {
        unsafe core.wait(limit, acknowledgement: acknowledgement)
    }
}
