import Foundation
import Testing

/// xen-loopback as a program, with the real daemon behind it.
@Suite(.serialized) struct CommandTests {
    private let directory: URL

    init() throws {
        directory = FileManager.default.temporaryDirectory.appendingPathComponent("xen-loopback-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    }

    private struct Outcome {
        let status: Int32
        let output: String
        let error: String
    }

    private static var program: URL {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
            .appendingPathComponent("xen-loopback")
    }

    private func start(_ arguments: [String]) throws -> (Process, Pipe, Pipe) {
        let process = Process()
        process.executableURL = Self.program
        process.arguments = arguments
        process.currentDirectoryURL = directory
        process.environment = ["TMPDIR": directory.path]
        let (output, error) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = error
        try process.run()
        return (process, output, error)
    }

    private func finish(_ run: (process: Process, output: Pipe, error: Pipe)) -> Outcome {
        let output = String(decoding: run.output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let error = String(decoding: run.error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        run.process.waitUntilExit()
        return Outcome(status: run.process.terminationStatus, output: output, error: error)
    }

    private func run(_ arguments: String...) throws -> Outcome { finish(try start(arguments)) }

    private func makeVolume() throws -> URL {
        let volume = directory.appendingPathComponent("disk.img")
        try Data(count: 1 << 20).write(to: volume)
        return volume
    }

    private func remove() { try? FileManager.default.removeItem(at: directory) }

    private var leftovers: [String] {
        (try? FileManager.default.contentsOfDirectory(atPath: directory.path).filter { $0 != "disk.img" }) ?? []
    }

    @Test func aRunWritesReadsBackAndCleansUp() throws {
        defer { remove() }
        _ = try makeVolume()
        let outcome = try run(
            "blk", "--volume", "disk.img", "--rw", "randrw", "--bs", "16k", "--iodepth", "8", "--verify", "md5",
            "--queues", "2", "--output-format", "json")
        #expect(outcome.status == 0, "\(outcome.error)")
        let json = try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any]
        let job = try #require((json?["jobs"] as? [[String: Any]])?.first)
        let ios = ["read", "write"].compactMap { (job[$0] as? [String: Any])?["total_ios"] as? Int }
        #expect(ios.reduce(0, +) == 64)
        #expect(leftovers == [])
    }

    @Test func aSectorAtAWrongPlaceWithinARightBlockIsFound() throws {
        defer { remove() }
        let volume = try makeVolume()
        #expect(
            try run("blk", "--volume", "disk.img", "--rw", "write", "--bs", "64k", "--verify", "crc32c").status == 0)
        let check = ["blk", "--volume", "disk.img", "--rw", "read", "--bs", "64k", "--verify", "crc32c"]
        #expect(finish(try start(check)).status == 0)
        var data = try Data(contentsOf: volume)
        let (first, second) = (500 * 512..<501 * 512, 501 * 512..<502 * 512)
        let (one, other) = (data.subdata(in: first), data.subdata(in: second))
        data.replaceSubrange(first, with: other)
        data.replaceSubrange(second, with: one)
        try data.write(to: volume)
        let outcome = finish(try start(check))
        #expect(outcome.status == 1)
        #expect(outcome.error == "xen-loopback: sector 500 holds sector 501\n")
        #expect(leftovers == [])
    }

    @Test func aSignalEndsARunAndCleansUp() throws {
        defer { remove() }
        let run = try start(["blk", "--volume", "null", "--runtime", "60", "--iodepth", "4"])
        while !leftovers.contains(where: { $0.hasPrefix("xen-loopback.") }) { usleep(1000) }
        run.0.terminate()
        let outcome = finish(run)
        #expect(outcome.status == 1)
        #expect(leftovers == [])
    }

    @Test(arguments: [
        (["--volume", "null", "--bs", "4q"], "--bs 4q: must be a size like 4096, 4k, 64m or 1g"),
        (
            ["--volume", "null", "--kill-every", "0"],
            "--kill-every 0: must be milliseconds, from 1 to 3600000"
        ),
        (["--rw", "read"], "--volume: is required"),
        (["--volume", "null", "--cpus", "0"], "--cpus 0: must be two processors"),
        (["--volume", "null", "--backend", "/nowhere"], "--backend /nowhere: must be a program"),
        (["--volume", "null", "--whatever"], "Unknown option"),
        (["none.fio"], "none.fio: cannot be read"),
        (["none.fio", "--bs", "4k"], "a job file excludes the options of a load"),
    ])
    func usageErrorsAreOneLineAndStatus2(_ arguments: [String], _ rule: String) throws {
        defer { remove() }
        let outcome = finish(try start(["blk"] + arguments))
        #expect(outcome.status == 2)
        #expect(outcome.error.contains(rule), "\(outcome.error)")
        #expect(outcome.error.split(separator: "\n").count == 1)
        #expect(outcome.output.isEmpty)
    }

    @Test(arguments: [
        ["--volume", "missing.img"], ["--volume", "disk.img", "--size", "2m"], ["--volume", "disk.img", "--bs", "2m"],
    ])
    func whatCannotBeServedEndsWithStatus1(_ arguments: [String]) throws {
        defer { remove() }
        _ = try makeVolume()
        let outcome = finish(try start(["blk"] + arguments))
        #expect(outcome.status == 1)
        #expect(outcome.error.hasSuffix("\n"))
        #expect(leftovers == [])
    }
}
