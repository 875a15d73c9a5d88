public import Telemetry
public import XenWire

/// Kinds of operations as they are counted.
public enum CountedOperation: Int, CaseIterable, Sendable {
    case read, write, flush, discard

    /// How a request is counted: a barrier is a write.
    @inlinable @_noLocks init(_ operation: BlockOperation) {
        switch operation {
        case .read: self = .read
        case .write, .barrier: self = .write
        case .flush: self = .flush
        case .discard: self = .discard
        }
    }
}

/// Where each counter of a queue lies in its cells.
enum CellLayout {
    /// Per operation: a latency histogram, its sum, sectors, errors.
    static var perOperation: Int { @_noLocks get { LogLinear.buckets + 3 } }
    static var violations: Int { @_noLocks get { perOperation * 4 } }
    static var events: Int { @_noLocks get { violations + 16 } }
    static var count: Int { @_noLocks get { events + 16 } }

    @_noLocks static func bucket(_ operation: CountedOperation, _ value: UInt64) -> Int {
        operation.rawValue &* perOperation &+ LogLinear.bucket(value)
    }
    @_noLocks static func sum(_ operation: CountedOperation) -> Int {
        operation.rawValue &* perOperation &+ LogLinear.buckets
    }
    @_noLocks static func sectors(_ operation: CountedOperation) -> Int { sum(operation) &+ 1 }
    @_noLocks static func errors(_ operation: CountedOperation) -> Int { sum(operation) &+ 2 }
}

/// What a queue counts beside requests.
public enum QueueEvent: Int, CaseIterable, Sendable {
    /// Turns in which something was done.
    case turns
    /// Events sent to the frontend.
    case notificationsSent
    /// Events received from the frontend.
    case notificationsReceived
    /// Grant copy calls.
    case grantCopies
    /// Segments in them.
    case grantSegments
    /// Submissions to the engine.
    case submissions
    /// Times that the queue slept.
    case sleeps
    /// Operations that the kernel did in part and that were continued.
    case shortOperations
    /// Operations that were tried again after EAGAIN, EINTR or ENOMEM.
    case retries
    /// Writes held because the volume is full.
    case heldWrites
    /// Bytes of buffer memory in use, now.
    case bufferBytes
    /// Pauses because events kept coming without requests.
    case throttledEvents
    /// Requests during which, and nothing else, the process ended for a fault, and which were answered with an error.
    case condemned
}

/// The counters of one queue at one moment.
public struct QueueCounters: Sendable {
    /// One operation's figures.
    public struct Operation: Sendable, Equatable {
        /// Latencies from taking a request to writing its response, nanoseconds; the total is the count of requests.
        public let latency: HistogramSnapshot
        /// 512-byte sectors.
        public let sectors: UInt64
        /// Requests that were answered with an error.
        public let errors: UInt64
    }

    private let operations: [Operation]
    private let violations: [UInt64]
    private let events: [UInt64]

    init(_ cells: Cells) {
        operations = CountedOperation.allCases.map { operation in
            let start = CellLayout.bucket(operation, 0)
            let counts = (0..<LogLinear.buckets).map { cells.load(start + $0) }
            return Operation(
                latency: HistogramSnapshot(counts: counts, sum: cells.load(CellLayout.sum(operation))),
                sectors: cells.load(CellLayout.sectors(operation)), errors: cells.load(CellLayout.errors(operation)))
        }
        violations = Violation.allCases.map { cells.load(CellLayout.violations + Int($0.rawValue)) }
        events = QueueEvent.allCases.map { cells.load(CellLayout.events + $0.rawValue) }
    }

    /// One operation's figures.
    public subscript(operation: CountedOperation) -> Operation { operations[operation.rawValue] }
    /// How often a rule was broken.
    public subscript(violation: Violation) -> UInt64 { violations[Int(violation.rawValue)] }
    /// How often something happened.
    public subscript(event: QueueEvent) -> UInt64 { events[event.rawValue] }
}
