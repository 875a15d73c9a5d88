internal import Descriptors
internal import Glibc
internal import SharedRing
internal import XenWire

/// What an earlier process left unanswered, in the order in which it is done again.
struct Backlog: ~Copyable {
    /// Entries of the in-flight table: first those that may have changed the volume already.
    let order: FixedTable<UInt16>
    let count: Int
    /// How many of them those are.
    let issued: Int
    /// Of `order`, how many were started again.
    var next = 0
    var stage: Stage

    enum Stage {
        /// What may have changed the volume, on this queue or another.
        case issued
        /// What certainly has not, or does not change it.
        case rest
        /// All is answered, and the ring is read.
        case over
    }

    /// - Parameter isShared: other queues of the device wait for the end of the first stage.
    init(_ entries: [UInt16], issued: Int, isShared: Bool) {
        order = FixedTable(repeating: 0, count: max(entries.count, 1))
        count = entries.count
        self.issued = issued
        stage = isShared || !entries.isEmpty ? .issued : .over
        for (place, entry) in entries.enumerated() { order[place] = entry }
    }
}

// R7. A write that may have reached the volume is done again before anything else of the device is: W1, done and not
// answered, may overlap W2, which waited for it. If W2 now went first, a guest that reads could see W1's data, then W2's,
// and then W1's again.
extension QueueCore {
    /// Goes on with the backlog; true if that changed anything.
    @inline(never) mutating func replay() -> Bool {
        guard condition == .running, !stopping else { return false }
        switch backlog.stage {
        case .over: return false
        case .issued:
            if start(upTo: backlog.issued) { return true }
            guard backlog.next == backlog.issued, areStartedAnswered else { return false }
            backlog.stage = .rest
            shared.endReplay()
            return true
        case .rest:
            guard !shared.isReplaying else { return false }
            if start(upTo: backlog.count) { return true }
            guard backlog.next == backlog.count, areStartedAnswered else { return false }
            journal?.forgetFaults()
            backlog.stage = .over
            return true
        }
    }

    /// Nothing but the backlog is in the table, and all of it that was started is answered, visibly.
    private var areStartedAnswered: Bool { inFlight.inUse == backlog.count - backlog.next }

    private mutating func start(upTo end: Int) -> Bool {
        var hasStarted = false
        while backlog.next < end, stalled.isEmpty, !goesAlone || areStartedAnswered {
            let index = backlog.order[backlog.next]
            backlog.next += 1
            hasStarted = true
            restart(index)
        }
        return hasStarted
    }

    /// After two faults in a row.
    private var goesAlone: Bool { journal?.mustGoAlone ?? false }

    private mutating func restart(_ index: UInt16) {
        slots[Int(index)] = Slot()
        if journal?.condemned == index {
            journal?.absolve()
            count(.condemned)
            return condemn(index)
        }
        if goesAlone { journal?.goAlone(index) }
        takeOther(index)
    }

    /// A flush that failed must never be answered (`flushFailed`), whatever it failed for.
    private mutating func condemn(_ index: UInt16) {
        let operation = unsafe BlockRequest.echoedOperation(inFlight.request(index))
        switch BlockOperation(rawValue: operation) {
        case .flush, .barrier:
            journal?.noteFlushFailure(EIO)
            become(.failed(Fault("make writes durable: processes have ended for it", errno: EIO)))
        case .read, .write, .discard, nil: answer(index, operation: operation, status: .error)
        }
    }
}
