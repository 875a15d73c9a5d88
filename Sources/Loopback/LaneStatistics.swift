internal import SharedRing
public import Telemetry

/// What became of a lane's reads or writes.
public struct DirectionReport: Sendable {
    public var ios: UInt64 = 0
    public var bytes: UInt64 = 0
    public var errors: UInt64 = 0
    /// Nanoseconds from submission to completion.
    public var latency = HistogramSnapshot(counts: [], sum: 0)
    public var minimum: UInt64 = 0
    public var maximum: UInt64 = 0
    var squares = 0.0

    /// Standard deviation of the latency.
    public var deviation: Double {
        guard ios > 1 else { return 0 }
        let mean = latency.mean
        return max(0, squares / Double(ios) - mean * mean).squareRoot()
    }

    func merged(_ other: DirectionReport) -> DirectionReport {
        var sum = self
        sum.ios += other.ios
        sum.bytes += other.bytes
        sum.errors += other.errors
        sum.latency = latency.merged(with: other.latency)
        sum.minimum = ios == 0 ? other.minimum : other.ios == 0 ? minimum : min(minimum, other.minimum)
        sum.maximum = max(maximum, other.maximum)
        sum.squares += other.squares
        return sum
    }
}

/// The same while it is counted, without an allocation or a class per I/O.
struct DirectionCounters: ~Copyable {
    private let counts = FixedTable<UInt64>(repeating: 0, count: LogLinear.buckets)
    private var ios: UInt64 = 0
    private var errors: UInt64 = 0
    private var sum: UInt64 = 0
    private var minimum = UInt64.max
    private var maximum: UInt64 = 0
    private var squares = 0.0

    @_noLocks mutating func record(_ nanoseconds: UInt64) {
        // The bucket is always below LogLinear.buckets.
        unsafe counts.element(LogLinear.bucket(nanoseconds)).pointee &+= 1
        ios &+= 1
        sum &+= nanoseconds
        if nanoseconds < minimum { minimum = nanoseconds }
        if nanoseconds > maximum { maximum = nanoseconds }
        let value = Double(nanoseconds)
        squares += value * value
    }

    @_noLocks mutating func recordError() { errors &+= 1 }

    /// The counts so far, of I/Os of `bytes` bytes.
    func report(bytes: UInt64) -> DirectionReport {
        var report = DirectionReport()
        report.ios = ios
        report.bytes = ios * bytes
        report.errors = errors
        report.latency = HistogramSnapshot(counts: (0..<counts.count).map { counts[$0] }, sum: sum)
        report.minimum = ios == 0 ? 0 : minimum
        report.maximum = maximum
        report.squares = squares
        return report
    }
}
