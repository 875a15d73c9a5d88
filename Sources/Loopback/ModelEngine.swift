public import Uring

/// An engine on a model volume: operations take effect, and their ends arrive, in any order and only when the scheduler
/// says so. Confined to the scheduler's thread.
@safe public final class ModelEngine: Engine {
    public let capacity: Int
    private let volume: ModelVolume
    private let registersSlabs: Bool
    /// Submitted, without effect yet.
    private var submitted: [IOOperation] = []
    /// In effect, not yet to be reaped.
    private var applied: [IOCompletion] = []
    private var completed: [IOCompletion] = []
    /// Slabs that are registered now.
    public private(set) var slabs: Set<UInt16> = []
    /// Operations that named a slab which was not registered, or tags that were under way already.
    public private(set) var malformed = 0

    /// - Parameters:
    ///   - capacity: operations under way at once; more are refused.
    ///   - registersSlabs: whether `register` succeeds.
    public init(_ volume: ModelVolume, capacity: Int, registersSlabs: Bool = true) {
        self.volume = volume
        self.capacity = capacity
        self.registersSlabs = registersSlabs
    }

    // MARK: The scheduler's side

    /// Whether `step` would do something.
    public var isBusy: Bool { !submitted.isEmpty || !applied.isEmpty }
    /// Whether there are ends to reap.
    public var hasCompletions: Bool { !completed.isEmpty }
    /// Operations that were submitted and not reaped.
    public var underWay: Int { submitted.count + applied.count + completed.count }

    /// Lets one operation take effect, or one end arrive.
    public func step(_ random: inout SeededRandom) {
        let choice = random.below(submitted.count + applied.count)
        if choice < submitted.count {
            let operation = submitted.remove(at: choice)
            applied.append(IOCompletion(tag: operation.tag, result: volume.apply(operation, &random)))
        } else if choice - submitted.count < applied.count {
            completed.append(applied.remove(at: choice - submitted.count))
        }
    }

    /// The process that submitted is dead: what has had no effect yet, which the kernel may still do. No end arrives any
    /// more.
    public func abandon() -> [IOOperation] {
        defer {
            submitted = []
            applied = []
            completed = []
        }
        return submitted
    }

    // MARK: The queue's side

    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        let accepted = min(count, capacity - underWay)
        for index in 0..<accepted {
            // The caller answers for `count` initialised operations.
            let operation = unsafe operations[index]
            check(operation)
            submitted.append(operation)
        }
        return accepted
    }

    private func check(_ operation: IOOperation) {
        let isUnderWay =
            submitted.contains { $0.tag == operation.tag } || applied.contains { $0.tag == operation.tag }
            || completed.contains { $0.tag == operation.tag }
        let isUnknown = operation.slab != IOOperation.unregistered && !slabs.contains(operation.slab)
        if isUnderWay || isUnknown { malformed += 1 }
    }

    public func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        let count = min(capacity, completed.count)
        // The caller answers for room for `capacity` completions.
        for index in 0..<count { unsafe completions[index] = completed[index] }
        completed.removeFirst(count)
        return count
    }

    public func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool {
        guard registersSlabs else { return false }
        slabs.insert(slab)
        return true
    }

    public func unregister(slab: UInt16) { slabs.remove(slab) }

    /// Nothing to watch: the scheduler knows what has arrived.
    public func watch(event: Int32, control: Int32, takingEvents: Bool) {}

    public var takesEvents: Bool { false }

    public func flush() {}

    /// Never called by a scheduler; there is nothing to wait for.
    public func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons { [] }
}
