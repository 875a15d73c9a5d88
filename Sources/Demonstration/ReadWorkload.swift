internal import Descriptors
public import Loopback
public import Telemetry
internal import XenWire

/// Reads of one size, so many at a time.
public struct ReadWorkload: Sendable, Equatable {
    /// Where each read goes.
    public enum Order: String, Sendable {
        case random, sequential
    }

    public let order: Order
    public let blockBytes: Int
    /// Reads in flight.
    public let depth: Int

    /// Reads of `blockBytes` bytes, `depth` at a time.
    public init(_ order: Order, blockBytes: Int, depth: Int) {
        self.order = order
        self.blockBytes = blockBytes
        self.depth = depth
    }

    /// `4 KiB random read, depth 32`
    public var title: String { "\(blockBytes >> 10) KiB \(order) read, depth \(depth)" }
}

/// What came of a workload.
public struct ReadFigures: Sendable, Equatable {
    /// Reads per second.
    public let readsPerSecond: Double
    /// Bytes per second.
    public let bytesPerSecond: Double
    /// Nanoseconds from the submission of a read to its completion.
    public let latency: HistogramSnapshot

    public init(readsPerSecond: Double, bytesPerSecond: Double, latency: HistogramSnapshot) {
        self.readsPerSecond = readsPerSecond
        self.bytesPerSecond = bytesPerSecond
        self.latency = latency
    }
}

extension JobOptions {
    /// A workload on one queue, through the page cache, over and over until the time is over.
    public init(_ workload: ReadWorkload, volume: String, seconds: Int) {
        self.init()
        self.volume = volume
        pattern = workload.order == .random ? .randread : .read
        blockBytes = workload.blockBytes
        depth = workload.depth
        runtimeNanoseconds = UInt64(max(seconds, 0)) * 1_000_000_000
        direct = false
    }
}

extension ReadFigures {
    /// What a run read.
    public init(_ report: RunReport) {
        let seconds = max(Double(report.runtimeNanoseconds) / 1e9, 1e-9)
        self.init(
            readsPerSecond: Double(report.read.ios) / seconds, bytesPerSecond: Double(report.read.bytes) / seconds,
            latency: report.read.latency)
    }
}

/// The same workload through the ring and, where there was one, by the tool that it is compared with.
public struct ReadComparison: Sendable {
    public let workload: ReadWorkload
    public let ring: ReadFigures
    public let reference: ReadFigures?

    public init(_ workload: ReadWorkload, ring: ReadFigures, reference: ReadFigures?) {
        self.workload = workload
        self.ring = ring
        self.reference = reference
    }
}

extension TextTable {
    /// A line for each workload and side; the last column is the ring's throughput over fio's.
    public init(_ comparisons: [ReadComparison]) {
        self.init(["", "", "IOPS", "MB/s", "p50 µs", "p99 µs", "of fio"])
        for comparison in comparisons {
            let share = comparison.reference.map { comparison.ring.readsPerSecond / $0.readsPerSecond }
            add(
                [comparison.workload.title] + Self.cells("ring", comparison.ring)
                    + (share.map { [Quantity.fixed($0, decimals: 2)] } ?? []))
            if let reference = comparison.reference { add([""] + Self.cells("fio", reference)) }
        }
    }

    private static func cells(_ side: String, _ figures: ReadFigures) -> [String] {
        [
            side, Quantity.grouped(figures.readsPerSecond), Quantity.grouped(figures.bytesPerSecond / 1e6),
            Quantity.microseconds(figures.latency.quantile(0.5)),
            Quantity.microseconds(figures.latency.quantile(0.99)),
        ]
    }
}
