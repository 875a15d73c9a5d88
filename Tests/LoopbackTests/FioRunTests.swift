import Demonstration
import Loopback
import Telemetry
import Testing

struct FioRunTests {
    private static let report = """
        note: something that fio has to say
        {"fio version": "fio-3.33", "jobs": [{"jobname": "demo", "read": {"iops": 1500.5, "bw_bytes": 6146048,
        "lat_ns": {"min": 900, "mean": 1500.0, "bins": {"1004": 3, "2008": 6, "4016000": 1}}}}]}
        """

    @Test func `a report is read`() throws {
        let figures = try ReadFigures(fioReport: Self.report)
        #expect(figures.readsPerSecond == 1500.5)
        #expect(figures.bytesPerSecond == 6_146_048)
        #expect(figures.latency.total == 10)
        #expect(figures.latency.sum == 3 * 1004 + 6 * 2008 + 4_016_000)
        #expect(LogLinear.bucket(figures.latency.quantile(0.5)) == LogLinear.bucket(2008))
        #expect(LogLinear.bucket(figures.latency.quantile(1)) == LogLinear.bucket(4_016_000))
    }

    @Test(arguments: [
        ("", "not JSON"), ("{}", "jobs[0].read"), (#"{"jobs":[{"read":{}}]}"#, "read.iops"),
        (#"{"jobs":[{"read":{"iops":1}}]}"#, "read.bw_bytes"),
        (#"{"jobs":[{"read":{"iops":1,"bw_bytes":2}}]}"#, "read.lat_ns.bins"),
    ])
    func `what is missing is named`(text: String, name: String) {
        let error = #expect(throws: FioReportError.self) { try ReadFigures(fioReport: text) }
        #expect(error?.description.contains(name) == true)
    }

    @Test func `fio is told the same workload`() {
        let workload = ReadWorkload(.random, blockBytes: 4096, depth: 32)
        let run = FioRun(
            workload, volume: "/a:b/disk", engine: "libaio", processor: 3, seconds: 2, report: "/r")
        let wanted = [
            "--filename=/a\\:b/disk", "--rw=randread", "--bs=4096", "--iodepth=32", "--ioengine=libaio", "--runtime=2",
            "--cpus_allowed=3", "--iodepth_batch_submit=16", "--iodepth_batch_complete_max=32", "--readonly",
        ]
        for argument in wanted { #expect(run.arguments.contains(argument)) }
        let single = FioRun(
            ReadWorkload(.sequential, blockBytes: 131_072, depth: 1), volume: "/d", engine: "io_uring", processor: nil,
            seconds: 2, report: "/r")
        #expect(single.arguments.contains("--rw=read"))
        #expect(!single.arguments.contains { $0.contains("batch") || $0.contains("cpus") })
    }
}
