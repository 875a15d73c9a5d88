public import Descriptors
internal import Telemetry

/// The same workload on the same file, done by fio.
public struct FioRun: Sendable {
    public let workload: ReadWorkload
    /// The file that is read.
    public let volume: String
    /// fio's name of it: `io_uring` or `libaio`.
    public let engine: String
    /// The only processor that it runs on; nil for any.
    public let processor: Int32?
    /// How long it reads.
    public let seconds: Int
    /// Where its result goes.
    public let report: String

    public init(
        _ workload: ReadWorkload, volume: String, engine: String, processor: Int32?, seconds: Int, report: String
    ) {
        self.workload = workload
        self.volume = volume
        self.engine = engine
        self.processor = processor
        self.seconds = seconds
        self.report = report
    }

    /// fio's command line: through the page cache, batched as a queue of the backend batches, and with its whole latency
    /// distribution, which is counted from a request's start to its end, as ours is.
    public var arguments: [String] {
        [
            "--name=demo", "--filename=\(Self.escaped(volume))", "--readonly", "--allow_file_create=0",
            "--rw=\(workload.order == .random ? "randread" : "read")", "--bs=\(workload.blockBytes)",
            "--iodepth=\(workload.depth)", "--ioengine=\(engine)", "--direct=0", "--invalidate=0", "--norandommap",
            "--time_based", "--runtime=\(seconds)", "--clat_percentiles=0", "--lat_percentiles=1",
            "--output-format=json+", "--output=\(report)",
        ] + batching + (processor.map { ["--cpus_allowed=\($0)"] } ?? [])
    }

    private var batching: [String] {
        guard workload.depth > 1 else { return [] }
        let submit = max(workload.depth / 2, 1)
        return [
            "--iodepth_batch_submit=\(submit)", "--iodepth_batch_complete_min=1",
            "--iodepth_batch_complete_max=\(workload.depth)",
        ]
    }

    /// Colons separate file names (fio(1), filename).
    private static func escaped(_ path: String) -> String {
        path.split(separator: ":", omittingEmptySubsequences: false).joined(separator: "\\:")
    }
}

/// Why a report of fio cannot be used.
public enum FioReportError: Error, Equatable, CustomStringConvertible {
    case unreadable(JSONError)
    /// A node that should be there.
    case missing(String)
    case host(Fault)

    public var description: String {
        switch self {
        case .unreadable(let error): "fio's report is \(error)"
        case .missing(let name): "fio's report lacks \(name)"
        case .host(let fault): fault.description
        }
    }
}

extension ReadFigures {
    /// Reads fio's `--output-format=json+`.
    public init(fioReport text: String) throws(FioReportError) {
        // Notes may precede the document.
        let document = try Self.parse(String(text.drop { $0 != "{" }))
        guard let read = document["jobs"]?[0]?["read"] else { throw .missing("jobs[0].read") }
        guard let reads = read["iops"]?.double else { throw .missing("read.iops") }
        guard let bytes = read["bw_bytes"]?.double else { throw .missing("read.bw_bytes") }
        guard let bins = read["lat_ns"]?["bins"]?.members else { throw .missing("read.lat_ns.bins") }
        self.init(readsPerSecond: reads, bytesPerSecond: bytes, latency: Self.histogram(bins))
    }

    /// Reads such a report from a file.
    public init(fioReportAt path: String) throws(FioReportError) {
        let bytes: [UInt8]
        do {
            bytes = try HostFile.read(path, limit: 4 << 20)
        } catch {
            throw .host(error)
        }
        try self.init(fioReport: String(decoding: bytes, as: UTF8.self))
    }

    private static func parse(_ text: String) throws(FioReportError) -> JSON {
        do {
            return try JSON(reading: text)
        } catch {
            throw .unreadable(error)
        }
    }

    /// fio's bins are named by a value in nanoseconds and are four times narrower than ours.
    private static func histogram(_ bins: [JSON.Member]) -> HistogramSnapshot {
        var counts = [UInt64](repeating: 0, count: LogLinear.buckets)
        var sum: UInt64 = 0
        for bin in bins {
            guard let value = UInt64(bin.name), case .number(let count) = bin.value else { continue }
            counts[LogLinear.bucket(value)] &+= count
            sum &+= value &* count
        }
        return HistogramSnapshot(counts: counts, sum: sum)
    }
}
