import Descriptors
import Foundation
import Loopback
import Testing

/// `xen-backctl upgrade` without systemd.
@Suite struct UpgradeTests {
    /// What starts the daemon in this world; it is told the daemon's name and the domain's number.
    private func starter(_ world: World) throws -> String {
        let path = world.directory + "/start"
        let script = """
            #!/bin/sh
            setsid \(World.daemonPath) --domid "$2" --xen loopback:\(world.directory) --log-level critical </dev/null >/dev/null 2>&1 &
            """
        try script.write(toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
        return path
    }

    private func upgrade(_ world: World, _ more: [String] = []) throws -> (
        status: Int32, output: String, errors: String
    ) {
        // Not Foundation's Process: that waits for the grandchildren, too.
        let command = URL(fileURLWithPath: World.daemonPath).deletingLastPathComponent().path + "/xen-backctl"
        let words = ["upgrade", "--state-dir", world.directory + "/state", "--start", try starter(world)] + more
        let (output, errors) = (world.directory + "/out", world.directory + "/err")
        let child = try ChildProcess(
            "/bin/sh", ["-c", "exec \(command) \(words.joined(separator: " ")) >\(output) 2>\(errors)"])
        guard case .exited(let status) = child.wait() else { return (-1, "", "") }
        return (
            status, try String(contentsOfFile: output, encoding: .utf8),
            try String(contentsOfFile: errors, encoding: .utf8)
        )
    }

    private func endSuccessor(_ output: String) {
        let words = output.split(separator: " ")
        guard let arrow = words.firstIndex(of: "->"), let process = Int32(words[arrow + 1].filter(\.isNumber)) else {
            return
        }
        kill(process, SIGKILL)
    }

    @Test func `another process serves on`() throws {
        let world = try World()
        let old = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        #expect(try world.eventually { try world.status?.contains("\"Connected\"") == true })
        let result = try upgrade(world)
        try #require(result.status == 0, "\(result.errors)")
        #expect(result.output.hasPrefix("xen-blkbackd, domain 5: process \(old.identifier) -> "))
        #expect(result.output.hasSuffix("1 devices served on\n"))
        #expect(old.wait() == .exited(0))
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        #expect(try world.read(World.back("state")) == "4")
        endSuccessor(result.output)
    }

    @Test func `a program that cannot read what is in flight is not started, and the old one goes on`() throws {
        let world = try World()
        let old = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        // As if a version with another format had written it.
        let journal = try FileHandle(forUpdating: URL(fileURLWithPath: world.directory + "/state/vbd-5.51712.queue0"))
        try journal.seek(toOffset: 8)
        try journal.write(contentsOf: Data([99, 0, 0, 0]))
        let result = try upgrade(world)
        #expect(result.status == 1)
        #expect(result.errors.contains("format 99 is not 1"))
        #expect(result.errors.contains("left alone"))
        #expect(old.ended == nil)
        #expect(frontend.request(0, sector: 1) == 0)
        old.kill()
    }

    @Test func `a domain that nobody serves is named`() throws {
        let world = try World()
        let result = try upgrade(world, ["--domid", "77"])
        #expect(result.status == 1)
        #expect(result.errors.contains("--domid 77: no daemon serves this domain"))
    }
}
