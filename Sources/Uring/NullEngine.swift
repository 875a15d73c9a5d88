internal import Descriptors

/// Completes every operation where it is submitted and touches no data: what a ring costs without a disk behind it.
public final class NullEngine: Engine {
    // As in UringEngine.
    @exclusivity(unchecked) private var core: NullCore
    public let capacity: Int

    /// An engine that holds up to `capacity` unreaped completions, at least 1.
    public init(capacity: Int) {
        self.capacity = max(1, capacity)
        unsafe core = NullCore(capacity: max(1, capacity))
    }

    public func watch(event: Int32, control: Int32) {
        unsafe core.watched = WatchedDescriptors(event: event, control: control)
    }

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int) -> Int {
        unsafe core.submit(operations, count: count)
    }

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        unsafe core.reap(completions, capacity: capacity)
    }

    /// True, so that a queue takes the path that it takes on a real volume.
    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool { true }

    public func unregister(slab: UInt16) {}

    public func wait(nanoseconds: UInt64?) -> WakeReasons {
        unsafe core.wait(nanoseconds: nanoseconds)
    }
}

/// Ended operations from oldest to newest, in a table used as a circle.
///
/// Safe because the table lives from `init` to `deinit` and positions are taken modulo its size, a power of two.
@safe private struct NullCore: ~Copyable {
    let capacity: Int
    var watched = WatchedDescriptors()
    private let ended: UnsafeMutablePointer<IOCompletion>
    private let mask: Int
    private var head = 0
    private var tail = 0

    init(capacity: Int) {
        let size = 1 << (Int.bitWidth - (capacity - 1).leadingZeroBitCount)
        unsafe ended = .allocate(capacity: size)
        unsafe ended.initialize(repeating: IOCompletion(tag: 0, result: 0), count: size)
        mask = size - 1
        self.capacity = capacity
    }

    deinit {
        unsafe ended.deallocate()
    }

    @_noLocks mutating func submit(_ operations: UnsafePointer<IOOperation>, count: Int) -> Int {
        let accepted = max(0, min(count, capacity &- (tail &- head)))
        for index in 0..<accepted {
            let operation = unsafe operations[index]
            unsafe ended[tail & mask] = IOCompletion(
                tag: operation.tag, result: Int32(truncatingIfNeeded: operation.length))
            tail &+= 1
        }
        return accepted
    }

    @_noLocks mutating func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        let count = max(0, min(capacity, tail &- head))
        for index in 0..<count {
            unsafe completions[index] = unsafe ended[head & mask]
            head &+= 1
        }
        return count
    }

    func wait(nanoseconds: UInt64?) -> WakeReasons {
        guard head == tail else { return .completions }
        return watched.wait(alsoFor: -1, nanoseconds: nanoseconds)
    }
}
