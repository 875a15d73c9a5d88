internal import CLinux
public import Descriptors

/// Operations on a file in memory (tmpfs), done where they are submitted.
///
/// Such a file has nothing to wait for, but the kernel does not know that it can be read without blocking (no
/// FMODE_NOWAIT): io_uring would hand each operation to a worker thread and libaio do it in place, one call each.
public final class InPlaceEngine: Engine {
    // As in UringEngine.
    @exclusivity(unchecked) private var ended: EndedOperations
    private let file: Int32
    private let waiting: any Engine
    public let capacity: Int

    /// - Parameters:
    ///   - file: open and in memory.
    ///   - capacity: unreaped completions, at least 1.
    ///   - waiting: does nothing but wait.
    public init(file: Int32, capacity: Int, waiting: any Engine) {
        self.file = file
        self.capacity = max(1, capacity)
        unsafe ended = EndedOperations(capacity: max(1, capacity))
        self.waiting = waiting
    }

    public func watch(event: Int32, control: Int32, takingEvents: Bool) throws(Fault) {
        try waiting.watch(event: event, control: control, takingEvents: takingEvents)
    }

    public var takesEvents: Bool { waiting.takesEvents }

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        // The caller answers for `count` operations and their buffers.
        let accepted = max(0, min(count, unsafe ended.room))
        for index in 0..<accepted {
            let operation = unsafe operations[index]
            unsafe ended.append(IOCompletion(tag: operation.tag, result: done(operation)))
        }
        return accepted
    }

    private func done(_ operation: IOOperation) -> Int32 {
        let (length, offset) = (Int(operation.length), operation.offset)
        let result =
            switch operation.kind {
            case .read: unsafe linux_read_at(file, operation.buffer, length, offset)
            case .write: unsafe linux_write_at(file, operation.buffer, length, offset)
            case .synchronize: Int(linux_synchronize(file))
            }
        return Int32(truncatingIfNeeded: result)
    }

    public func flush() {}

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        unsafe ended.take(completions, capacity)
    }

    /// True, so that a queue takes the path that it takes with io_uring.
    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool { true }

    public func unregister(slab: UInt16) {}

    public func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons {
        if unsafe ended.isEmpty { return waiting.wait(limit, acknowledgement: acknowledgement) }
        // The acknowledgement must go out all the same.
        return waiting.wait(.nanoseconds(0), acknowledgement: acknowledgement).union(.completions)
    }
}
