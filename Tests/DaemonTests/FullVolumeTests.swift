import Descriptors
import Foundation
import Loopback
import Testing

/// A file system of two megabytes that goes with the test, and a sparse file of 16 on it.
private final class SmallFileSystem {
    let path: String
    var volume: String { path + "/volume" }
    private var loop: String?

    init() throws {
        var template = Array("/tmp/xen-small-XXXXXX".utf8CString)
        path = try unsafe String(cString: #require(mkdtemp(&template)))
        try Self.run("/bin/mount", ["-t", "tmpfs", "-o", "size=2M", "tmpfs", path])
        try Data().write(to: URL(fileURLWithPath: volume))
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: volume))
        try file.truncate(atOffset: 16 << 20)
    }

    deinit {
        if let loop { _ = try? Self.run("/sbin/losetup", ["-d", loop]) }
        _ = try? Self.run("/bin/umount", ["-l", path])
        try? FileManager.default.removeItem(atPath: path)
    }

    /// Takes all room but some pages.
    func fill() throws {
        try Data(count: (2 << 20) - (64 << 10)).write(to: URL(fileURLWithPath: path + "/filler"))
    }
    func makeRoom() throws { try FileManager.default.removeItem(atPath: path + "/filler") }

    /// The file as a block device, whose page cache takes writes that the file has no room for.
    func makeLoopDevice() throws -> String {
        let device = try Self.run("/sbin/losetup", ["--find", "--show", volume])
        loop = device
        return device
    }

    @discardableResult
    static func run(_ program: String, _ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        return String(decoding: output, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

@Suite(.serialized, .enabled(if: getuid() == 0, "mounting needs root"))
struct FullVolumeTests {
    @Test func `a full volume holds writes, says so, and goes on when there is room`() throws {
        let small = try SmallFileSystem()
        try small.fill()
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect(small.volume)
        var sector: UInt64 = 0
        // More pages than there is room for: one of them is held.
        while frontend.request(1, sector: sector, patience: 5) == 0, sector < 2048 { sector += 8 }
        #expect(sector < 2048)
        #expect(try world.eventually { try world.status?.contains("paused: ") == true })
        #expect(try world.read(World.back("state")) == "4")
        try small.makeRoom()
        #expect(frontend.awaitResponse() == 0)
        #expect(frontend.request(1, sector: sector + 8) == 0)
        daemon.kill()
    }

    @Test func `with the policy error a full volume fails the write and nothing else`() throws {
        let small = try SmallFileSystem()
        try small.fill()
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect(small.volume, [World.back("write-space-policy"): "error"])
        var sector: UInt64 = 0
        while sector < 2048, frontend.request(1, sector: sector) == 0 { sector += 8 }
        #expect(sector < 2048)
        #expect(frontend.request(1, sector: sector) == -1)
        #expect(frontend.request(0, sector: sector) == 0)
        #expect(try world.read(World.back("state")) == "4")
        daemon.kill()
    }

    @Test func `a failed flush is not answered, closes the device, and no later process forgets it`() throws {
        let small = try SmallFileSystem()
        let device = try small.makeLoopDevice()
        try small.fill()
        let world = try World()
        let first = try world.startDaemon(["--direct", "0", "--no-loop-files"])
        var frontend = try world.connect(device)
        // Page by page: the loop driver reports a write that found room for a part of itself as done.
        var sector: UInt64 = 0
        while sector < 2048, frontend.request(1, sector: sector) == 0, frontend.request(3, sector: 0, patience: 10) == 0
        {
            sector += 8
        }
        #expect(sector < 2048, "there must have been a flush without an answer")
        #expect(try world.waitForState("5"))
        let reason = try #require(try world.read(World.back("error")))
        #expect(reason.contains("durable"))
        first.kill()
        _ = first.wait()

        let second = try world.startDaemon(["--direct", "0", "--no-loop-files"])
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try world.write([World.front("state"): "1"])
        #expect(try world.eventually { try world.status?.contains("Closed") == true })
        #expect(try world.read(World.back("state")) == "6")
        // The toolstack takes the device away and makes another in its place.
        try world.remove("/local/domain/0/backend/vbd/5")
        #expect(second.wait() == .exited(0))
        try small.makeRoom()
        let third = try world.startDaemon()
        try world.createDisk(device)
        #expect(try world.waitForState("2"))
        third.kill()
    }

    /// A file system for state that holds a lock and no journal.
    @Test func `without room for a journal a disk is not connected, and another is, once there is`() throws {
        let world = try World()
        let state = world.directory + "/small"
        try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
        try SmallFileSystem.run("/bin/mount", ["-t", "tmpfs", "-o", "size=8k,mode=0700", "tmpfs", state])
        defer { _ = try? SmallFileSystem.run("/bin/umount", ["-l", state]) }
        let daemon = try world.startDaemon(["--state-dir", state])
        let volume = try world.makeVolume(sectors: 64)
        try world.createDisk(volume)
        try world.plugIn(volume)
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("5"))
        let reason = try #require(try world.read(World.back("error")))
        #expect(reason.contains("reserve") && reason.contains("No space left on device"), "\(reason)")
        // The guest closes and comes back, as blkfront does.
        try SmallFileSystem.run("/bin/mount", ["-o", "remount,size=1M", state])
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try world.write([World.front("state"): "1"])
        #expect(try world.waitForState("2"))
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 0) == 0)
        daemon.kill()
    }
}
