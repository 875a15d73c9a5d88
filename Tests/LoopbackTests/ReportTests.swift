import Foundation
import Telemetry
import Testing
import XenWire

@testable import Loopback

private func report() -> RunReport {
    var options = JobOptions()
    options.name = "a \"job\""
    options.volume = "/dev/vg/disk"
    options.pattern = .randrw
    var report = RunReport(options: options)
    var reads = DirectionCounters()
    for value in 1...1000 as ClosedRange<UInt64> { reads.record(value * 1000) }
    report.read = reads.report(bytes: 4096)
    var writes = DirectionCounters()
    writes.record(5000)
    writes.recordError()
    report.write = writes.report(bytes: 4096)
    report.runtimeNanoseconds = 2_000_000_000
    report.frontendNanoseconds = 1001 * 50
    report.backendNanoseconds = 1001 * 150
    report.notifications = 1001
    return report
}

/// The paths to all numbers and strings in a document.
private func leaves(_ value: Any, _ path: String = "") -> Set<String> {
    switch value {
    case let object as [String: Any]: object.reduce(into: []) { $0.formUnion(leaves($1.value, path + "/" + $1.key)) }
    case let list as [Any]: list.reduce(into: []) { $0.formUnion(leaves($1, path + "/*")) }
    default: [path]
    }
}

private func parsed() throws -> [String: Any] {
    let text = RunReport.json([report()], time: 1_700_000_000_123_456_789).text
    return try #require(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
}

@Test func theJSONLayoutIsFios() throws {
    let document = try parsed()
    let job = try #require((document["jobs"] as? [[String: Any]])?.first)
    let read = try #require(job["read"] as? [String: Any])
    #expect(job["jobname"] as? String == "a \"job\"")
    #expect(job["error"] as? Int == 5, "an I/O failed")
    #expect(read["iops"] as? Double == 500)
    #expect(read["total_ios"] as? Int == 1000)
    #expect(read["io_bytes"] as? Int == 4_096_000)
    #expect(read["bw_bytes"] as? Int == 2_048_000)
    #expect(read["bw"] as? Int == 2000)
    #expect(read["runtime"] as? Int == 2000)
    let latency = try #require(read["clat_ns"] as? [String: Any])
    #expect(latency["min"] as? Int == 1000)
    #expect(latency["max"] as? Int == 1_000_000)
    #expect(latency["mean"] as? Double == 500_500)
    #expect(abs(try #require(latency["stddev"] as? Double) - 288_675) < 1)
    let percentiles = try #require(latency["percentile"] as? [String: Int])
    #expect(abs(try #require(percentiles["50.000000"]) - 500_000) < 500_000 / 16)
    #expect(abs(try #require(percentiles["99.900000"]) - 999_000) < 1_000_000 / 16)
    #expect((job["frontend"] as? [String: Any])?["cpu_ns_per_io"] as? Double == 50)
    #expect((job["backend"] as? [String: Any])?["cpu_ns_per_io"] as? Double == 150)
}

/// A real fio's output for the same kind of job, where there is a fio.
@Test(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/fio")))
func everyMemberThatIsOursAndFiosIsAtFiosPlace() throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("fio-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: directory) }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/fio")
    process.currentDirectoryURL = directory
    process.arguments = [
        "--name=x", "--filename=f", "--size=1m", "--rw=randrw", "--bs=4k", "--ioengine=psync", "--numjobs=1",
        "--output-format=json",
    ]
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = FileHandle.nullDevice
    try process.run()
    let output = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let theirs = leaves(try JSONSerialization.jsonObject(with: output))
    let ours = leaves(try parsed()).filter { leaf in
        !["/jobs/*/frontend", "/jobs/*/backend", "/jobs/*/loopback", "/jobs/*/job options"].contains {
            leaf.hasPrefix($0)
        }
    }
    #expect(ours.subtracting(theirs) == [])
}

@Test func theTextNamesWhatMatters() {
    let text = report().text
    #expect(text.contains("read: IOPS=500, BW=2.0MiB/s"))
    #expect(text.contains("50.00th="))
    #expect(text.contains("frontend 50 ns/IO, backend 150 ns/IO"))
    #expect(text.contains("1 I/Os were answered with an error"))
}

@Test(arguments: [
    (0.0, 2, "0.00"), (1.005, 1, "1.0"), (12.346, 2, "12.35"), (-0.5, 1, "-0.5"), (0.999, 2, "1.00"), (7, 0, "7"),
])
func numbersAreRounded(_ value: Double, _ digits: Int, _ text: String) {
    #expect(fixed(value, digits) == text)
}

@Test(arguments: [(7100.0, "7100"), (12_345, "12.3k"), (123_456, "123k"), (1_234_567, "1.23M")])
func largeNumbersAreShort(_ value: Double, _ text: String) {
    #expect(short(value) == text)
}
