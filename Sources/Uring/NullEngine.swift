internal import Descriptors

/// Completes every operation where it is submitted and touches no data: what a ring costs without a disk behind it.
public final class NullEngine: Engine {
    // As in UringEngine.
    @exclusivity(unchecked) private var ended: EndedOperations
    private var watched = WatchedDescriptors()
    public let capacity: Int

    /// An engine that holds up to `capacity` unreaped completions, at least 1.
    public init(capacity: Int) {
        self.capacity = max(1, capacity)
        unsafe ended = EndedOperations(capacity: max(1, capacity))
    }

    public func watch(event: Int32, control: Int32, takingEvents: Bool) {
        watched = WatchedDescriptors(event: event, control: control)
    }

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        let accepted = max(0, min(count, unsafe ended.room))
        for index in 0..<accepted {
            let operation = unsafe operations[index]
            unsafe ended.append(IOCompletion(tag: operation.tag, result: Int32(truncatingIfNeeded: operation.length)))
        }
        return accepted
    }

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        unsafe ended.take(completions, capacity)
    }

    /// True, so that a queue takes the path that it takes on a real volume.
    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool { true }

    public func unregister(slab: UInt16) {}

    /// Operations have started when `submit` returns.
    public func flush() {}

    public var takesEvents: Bool { false }

    public func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons {
        guard unsafe ended.isEmpty else { return .completions }
        return watched.wait(alsoFor: -1, nanoseconds: limit.nanoseconds)
    }
}
