import BlockBackend
import Descriptors
import Foundation
import Loopback
import Service
import Testing

/// The daemon as its own process, from creation to removal, with a toolstack and a frontend around it.
@Suite(.serialized)
struct DaemonTests {
    @Test func `a disk from creation to removal`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        try world.createDisk(volume)
        #expect(try world.waitForState("2"))
        #expect(try world.read(World.back("feature-max-indirect-segments")) == "256")
        #expect(try world.read(World.back("sectors")) == nil)

        var frontend = try Frontend(world)
        try frontend.publish()
        try world.plugIn(volume)
        #expect(try world.waitForState("4"))
        #expect(try world.read(World.back("sectors")) == "64")
        #expect(try world.read(World.back("sector-size")) == "512")
        #expect(try world.read(World.back("info")) == "0")
        try world.write([World.front("state"): "4"])

        #expect(frontend.request(0, sector: 16) == 0)
        #expect(frontend.firstBytes == [16, 17, 18, 19, 20, 21, 22, 23])
        frontend.fill(0xAB)
        #expect(frontend.request(1, sector: 24) == 0)
        #expect(frontend.request(3, sector: 0) == 0)
        #expect(try Data(contentsOf: URL(fileURLWithPath: volume))[24 * 512 - 1] == 23)
        #expect(try Data(contentsOf: URL(fileURLWithPath: volume))[24 * 512] == 0xAB)
        #expect(frontend.request(0, sector: 60) == -1, "beyond the end")

        for (theirs, ours) in [("5", "5"), ("6", "6"), ("1", "2")] {
            try world.write([World.front("state"): theirs])
            #expect(try world.waitForState(ours))
        }
        var second = try Frontend(world)
        try second.publish()
        #expect(try world.waitForState("4"))
        #expect(second.request(0, sector: 0) == 0)

        try world.write([World.back("online"): "0", World.back("state"): "5"])
        try world.write([World.front("state"): "5"])
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try world.remove("/local/domain/0/backend/vbd/5")
        #expect(daemon.wait() == .exited(0))
        #expect(world.hypervisor.mappedPages(of: World.domain) == 0)
    }

    @Test func `SIGTERM leaves the disk connected and the next process takes it over`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        try world.createDisk(volume)
        try world.plugIn(volume)
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        try world.write([World.front("state"): "4"])
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        first.signal(SIGTERM)
        #expect(first.wait() == .exited(0))
        #expect(try world.read(World.back("state")) == "4")

        let second = try world.startDaemon()
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        #expect(frontend.firstBytes[0] == 39)
        #expect(try world.read(World.back("state")) == "4")
        second.signal(SIGTERM)
        #expect(second.wait() == .exited(0))
    }

    @Test func `a process that is killed is followed by one that serves on`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        first.kill()
        _ = first.wait()
        let second = try world.startDaemon()
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        #expect(frontend.firstBytes[0] == 39)
        #expect(try world.read(World.back("state")) == "4")
        #expect(try world.read(World.back("error")) == nil)
        second.kill()
    }

    @Test func `what was done before a process could say 4 is known to the next one`() throws {
        let world = try World()
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        for sector in 0..<40 { #expect(frontend.request(0, sector: UInt64(sector)) == 0) }
        first.kill()
        _ = first.wait()
        let journal = world.directory + "/state/vbd-5.51712.queue0"
        func file() throws -> Int? {
            try FileManager.default.attributesOfItem(atPath: journal)[.systemFileNumber] as? Int
        }
        let before = try file()
        #expect(frontend.request(0, sector: 7, patience: 0) == nil)
        try world.write([World.back("state"): "2"])
        let second = try world.startDaemon()
        #expect(frontend.awaitResponse() == 0)
        #expect(frontend.firstBytes[0] == 7)
        #expect(try world.waitForState("4"))
        #expect(try file() == before)
        // What follows the frontend's next start is new.
        try world.write([World.front("state"): "5"])
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        second.kill()
        _ = second.wait()
        try world.write([World.front("state"): "1"])
        let third = try world.startDaemon()
        #expect(try world.waitForState("2"))
        #expect(try journals(world) == [])
        third.kill()
    }

    /// The process goes over to them, and is killed at one instant or another of that.
    @Test func `a guest that makes itself new rings has them served, whoever is killed meanwhile`() throws {
        let world = try World()
        var daemon = try world.startDaemon()
        _ = try world.connect(try world.makeVolume(sectors: 64))
        for round in 0..<24 {
            var frontend = try Frontend(world)
            try frontend.publish(round % 2 == 0 ? frontend.twoPages : frontend.onePage)
            usleep(UInt32(round) * 300)
            daemon.kill()
            _ = daemon.wait()
            daemon = try world.startDaemon()
            let status = frontend.request(0, sector: UInt64(round))
            try #require(status == 0, "\(round)")
            #expect(try world.read(World.back("state")) == "4")
        }
        daemon.kill()
    }

    private func journals(_ world: World) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: world.directory + "/state").filter { $0.contains("queue") }
    }

    @Test func `a guest that went while nobody served it is cleaned up after`() throws {
        let world = try World()
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        #expect(try journals(world) == ["vbd-5.51712.queue0"])
        first.kill()
        _ = first.wait()
        // The guest closes, and the toolstack takes the disk away.
        try world.write([World.front("state"): "5", World.back("online"): "0", World.back("state"): "5"])
        let second = try world.startDaemon()
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try world.remove("/local/domain/0/backend/vbd/5")
        #expect(second.wait() == .exited(0))
        #expect(try journals(world) == [])
    }

    @Test func `of a domain that was destroyed meanwhile nothing is left`() throws {
        let world = try World()
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try world.remove("/local/domain/0/backend/vbd/5")
        // Another domain's daemon: its own may never be started again.
        let other = try ChildProcess(
            World.daemonPath, ["--domid", "6", "--xen", "loopback:\(world.directory)", "--log-level", "critical"])
        #expect(try world.eventually { try journals(world) == [] })
        other.kill()
    }

    @Test func `another domain with the same number is not served on`() throws {
        let world = try World()
        try world.write(["/local/domain/5/vm": "/vm/aaaa"])
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try world.write(["/local/domain/5/vm": "/vm/bbbb"])
        let second = try world.startDaemon()
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error"))?.contains("domain is /vm/aaaa, not /vm/bbbb") == true)
        second.kill()
    }

    @Test func `what is in flight is not done on another disk, and a disk that is idle may be exchanged`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        let other = volume + ".other"
        try FileManager.default.copyItem(atPath: volume, toPath: other)
        try world.plugIn(other)
        let second = try world.startDaemon()
        #expect(frontend.request(0, sector: 1) == 0)
        second.kill()
        _ = second.wait()
        // Nobody answers this one before the disk is another.
        #expect(frontend.request(1, sector: 2, patience: 0) == nil)
        try self.markTaken(world)
        try world.plugIn(volume)
        let third = try world.startDaemon()
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error"))?.contains("the journal's volume is") == true)
        third.kill()
    }

    @Test(arguments: [true, false])
    func `persistent grants stay as they were agreed, whatever the next process offers`(agreed: Bool) throws {
        let options = { (offers: Bool) in offers ? [] : ["--no-persistent-grants"] }
        let world = try World()
        let first = try world.startDaemon(options(agreed))
        var frontend = try world.connect(
            try world.makeVolume(sectors: 64), [World.front("feature-persistent"): "1"])
        let pages = agreed ? 2 : 1  // the ring's, and the one with data
        #expect(frontend.request(0, sector: 0) == 0)
        #expect(world.hypervisor.mappedPages(of: World.domain) == pages)
        first.kill()
        _ = first.wait()
        #expect(try world.eventually { world.hypervisor.mappedPages(of: World.domain) == 0 })
        let second = try world.startDaemon(options(!agreed))
        #expect(frontend.request(0, sector: 8) == 0)
        #expect(world.hypervisor.mappedPages(of: World.domain) == pages)
        second.kill()
    }

    @Test func `what a guest was told holds when the next process tells others less`() throws {
        let world = try World()
        let first = try world.startDaemon(["--barrier"])
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 4) == 0)
        first.kill()
        _ = first.wait()
        let second = try world.startDaemon(["--sector-size", "4096", "--max-indirect", "0", "--max-queues", "1"])
        #expect(frontend.request(0, sector: 4) == 0)
        #expect(frontend.request(2, sector: 4) == 0)
        #expect(try world.read(World.back("sector-size")) == "512")
        second.kill()
    }

    /// What a dead process holds as long as its writes are under way.
    private func holdFence(_ volume: Volume) throws -> VolumeFence {
        let host = BootIdentity.current.utf8.reduce(UInt16(0)) { ($0 &* 31) &+ UInt16($1) }
        let fence = VolumeFence(volume.data, domain: World.domain, device: 51712, host: host)
        while try !fence.pass() { usleep(1000) }
        return fence
    }

    /// After 6 the toolstack may start another guest on the volume.
    @Test(arguments: [true, false])
    func `a disk has not closed before a dead process's writes are over`(isFollowed: Bool) throws {
        let world = try World()
        let first = try world.startDaemon()
        let path = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(path)
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        var volume: Volume? = try Volume(path)
        let held = try holdFence(#require(volume))
        if !isFollowed {
            try markTaken(world)
            try world.write([World.front("state"): "6"])
        }
        let second = try world.startDaemon()
        defer { second.kill() }
        if isFollowed {
            #expect(try world.eventually { try world.status?.contains("\"fence_wait_ns\":null") == true })
            try world.write([World.front("state"): "5"])
            try world.write([World.front("state"): "6"])
        }
        usleep(1_500_000)
        #expect(try world.read(World.back("state")) != "6")
        withExtendedLifetime(held) { volume = nil }
        #expect(try world.waitForState("6"))
    }

    /// Also when the frontend starts over.
    private func expectClosedForGood(_ world: World) throws {
        try world.write([World.front("state"): "1"])
        usleep(200_000)
        #expect(try world.read(World.back("state")) == "6", "it failed for good")
    }

    @Test func `a failed flush that was not recorded is not tried again`() throws {
        let world = try World()
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try write([UInt8(EIO), 0, 0, 0], at: 64 + 12, world)
        let second = try world.startDaemon()
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error"))?.contains("make writes durable: Input/output error") == true)
        second.kill()
        _ = second.wait()
        let third = try world.startDaemon()
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try expectClosedForGood(world)
        third.kill()
    }

    @Test func `a failed flush that nobody has seen keeps the disk closed, also to who finds it when it closes`() throws
    {
        let world = try World()
        let first = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try write([UInt8(EIO), 0, 0, 0], at: 64 + 12, world)
        try world.write([World.front("state"): "6"])
        let second = try world.startDaemon()
        #expect(try world.waitForState("6"))
        #expect(
            try world.eventually {
                try world.read(World.back("error"))?.contains("make writes durable: Input/output error") == true
            })
        try expectClosedForGood(world)
        // Another disk in its place has nothing to do with that.
        try world.write([World.back("state"): "1"])
        #expect(try world.waitForState("2"))
        second.kill()
    }

    @Test func `a failed flush that the queue has just noted keeps the disk closed when its guest closes`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        try write([UInt8(EIO), 0, 0, 0], at: 64 + 12, world)
        try world.write([World.front("state"): "5"])
        #expect(try world.waitForState("5"))
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        #expect(
            try world.eventually {
                try world.read(World.back("error"))?.contains("make writes durable: Input/output error") == true
            })
        try expectClosedForGood(world)
        daemon.kill()
    }

    /// Kills the daemon, takes the volume away, puts a request on the ring and starts another daemon.
    private func loseVolume(
        _ volume: String, _ world: World, _ first: ChildProcess, _ frontend: inout Frontend
    ) throws -> ChildProcess {
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try FileManager.default.moveItem(atPath: volume, toPath: volume + ".away")
        #expect(frontend.request(0, sector: 8, patience: 0) == nil)
        let second = try world.startDaemon()
        #expect(try world.eventually { try world.read(World.back("error"))?.contains("the guest waits") == true })
        #expect(try world.read(World.back("state")) == "4")
        return second
    }

    @Test func `a volume that is away when a killed process is followed costs the guest a longer pause`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        let daemon = try loseVolume(volume, world, first, &frontend)
        try FileManager.default.moveItem(atPath: volume + ".away", toPath: volume)
        #expect(frontend.awaitResponse() == 0)
        #expect(frontend.firstBytes == [8, 9, 10, 11, 12, 13, 14, 15])
        #expect(try world.wait(World.back("error"), nil))
        #expect(try world.read(World.back("state")) == "4")
        #expect(frontend.request(0, sector: 16) == 0)
        daemon.kill()
    }

    @Test func `a volume that is away is waited for also by a guest that has not seen 4 yet`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        try world.write([World.back("state"): "2"])
        try FileManager.default.moveItem(atPath: volume, toPath: volume + ".away")
        let second = try world.startDaemon()
        #expect(frontend.request(0, sector: 8, patience: 3) == nil)
        #expect(try world.read(World.back("state")) == "2")
        try FileManager.default.moveItem(atPath: volume + ".away", toPath: volume)
        #expect(frontend.awaitResponse() == 0)
        #expect(try world.waitForState("4"))
        second.kill()
    }

    @Test func `a guest that makes itself new rings while its volume is waited for goes on waiting`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var before = try world.connect(volume)
        let daemon = try loseVolume(volume, world, first, &before)
        func served() -> Int? {
            RunningDaemon.all("xen-blkbackd", prefix: "vbd", in: world.directory + "/state").first?.connectedDevices
        }
        #expect(try world.eventually { try world.status?.contains("waits_for") == true })
        #expect(served() == 0)
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(frontend.request(0, sector: 8, patience: 1) == nil)
        #expect(try world.read(World.back("state")) == "4")
        try FileManager.default.moveItem(atPath: volume + ".away", toPath: volume)
        #expect(frontend.awaitResponse() == 0)
        #expect(frontend.firstBytes == [8, 9, 10, 11, 12, 13, 14, 15])
        #expect(try world.eventually { served() == 1 })
        daemon.kill()
    }

    @Test func `a guest that closes while its volume is waited for has closed`() throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        let daemon = try loseVolume(volume, world, first, &frontend)
        try world.write([World.front("state"): "5"])
        #expect(try world.waitForState("5"))
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        let journals = try FileManager.default.contentsOfDirectory(atPath: world.directory + "/state")
        #expect(!journals.contains("vbd-5.51712.queue0"))
        #expect(daemon.ended == nil)
        withExtendedLifetime(frontend) {}
        daemon.kill()
    }

    /// As if the process had been killed between F2 and an answer: the next free entry is in flight.
    private func markTaken(_ world: World) throws { try write([9, 0, 0, 0, 0, 0, 0, 0], at: 4096 + 128, world) }

    private func write(_ bytes: [UInt8], at offset: UInt64, _ world: World) throws {
        let journal = try FileHandle(forUpdating: URL(fileURLWithPath: "\(world.directory)/state/vbd-5.51712.queue0"))
        try journal.seek(toOffset: offset)
        try journal.write(contentsOf: Data(bytes))
    }

    /// What is done to the journal, and what the next process says of it.
    enum Damage: CaseIterable {
        case gone, empty, headOnly, cutShort, zeroes, otherBoot, otherDisk

        var complaint: String {
            switch self {
            case .gone: "no journal"
            case .empty: "is no file of"
            case .headOnly, .zeroes: "no journal: its first word"
            case .cutShort: "no journal: its size"
            case .otherBoot: "no journal: the checksum"
            case .otherDisk: "the journal's device is vbd-5-51728, not vbd-5-51712"
            }
        }
    }

    @Test(arguments: Damage.allCases)
    func `rings without their journal are not guessed at`(damage: Damage) throws {
        let world = try World()
        let first = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        let journal = URL(fileURLWithPath: "\(world.directory)/state/vbd-5.51712.queue0")
        if damage == .otherDisk { try world.createDisk(volume, 51728) }
        #expect(frontend.request(0, sector: 0) == 0)
        first.kill()
        _ = first.wait()
        var bytes = try Data(contentsOf: journal)
        switch damage {
        case .gone: try FileManager.default.removeItem(at: journal)
        case .empty: try Data().write(to: journal)
        case .headOnly: try bytes.prefix(4096).write(to: journal)
        case .cutShort: try bytes.prefix(8192).write(to: journal)
        case .zeroes: try Data(count: bytes.count).write(to: journal)
        case .otherBoot:
            bytes[140] ^= 1
            try bytes.write(to: journal)
        case .otherDisk:
            let text = String(decoding: bytes[128..<4096], as: UTF8.self)
            try Self.rewritten(bytes, text.replacing("vbd-5-51712", with: "vbd-5-51728")).write(to: journal)
        }
        let second = try world.startDaemon()
        #expect(try world.waitForState("5"))
        let reason = try #require(try world.read(World.back("error")))
        #expect(reason.contains(damage.complaint) && reason.contains("the guest loses it"))
        second.kill()
    }

    /// A journal with another identity, and the checksum to it.
    private static func rewritten(_ journal: Data, _ identity: String) -> Data {
        var journal = journal
        journal.replaceSubrange(128..<4096, with: Data(identity.utf8.prefix(4096 - 128)))
        let length = Int(journal[12]) | Int(journal[13]) << 8
        var sum: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in journal[128..<128 + length] { sum = (sum ^ UInt64(byte)) &* 0x100_0000_01b3 }
        unsafe withUnsafeBytes(of: sum) { unsafe journal.replaceSubrange(16..<24, with: Data($0)) }
        return journal
    }

    @Test func `a resized volume reaches the guest`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        let volume = try world.makeVolume(sectors: 64)
        try world.createDisk(volume)
        try world.plugIn(volume)
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 64) == -1)
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: volume))
        try file.truncate(atOffset: 128 * 512)
        #expect(try world.wait(World.back("sectors"), "128"))
        #expect(frontend.request(0, sector: 64) == 0)
        daemon.kill()
    }

    @Test(arguments: ["io_uring", "libaio"], ["0", "1", "auto"])
    func `both engines, with and without the page cache`(_ engine: String, _ direct: String) throws {
        let world = try World()
        let daemon = try world.startDaemon(["--engine", engine, "--direct", direct])
        let volume = try world.makeVolume(sectors: 64)
        var frontend = try world.connect(volume)
        #expect(frontend.request(0, sector: 8) == 0)
        #expect(frontend.firstBytes == [8, 9, 10, 11, 12, 13, 14, 15])
        frontend.fill(0x5A)
        #expect(frontend.request(1, sector: 40) == 0)
        #expect(frontend.request(3, sector: 0) == 0)
        #expect(frontend.request(0, sector: 36) == 0)
        #expect(frontend.firstBytes == [36, 37, 38, 39, 0x5A, 0x5A, 0x5A, 0x5A])
        daemon.kill()
    }

    @Test func `what a disk is, the guest is told and held to`() throws {
        let world = try World()
        let daemon = try world.startDaemon(["--sector-size", "4096", "--max-queues", "2", "--max-indirect", "0"])
        let volume = try world.makeVolume(sectors: 63)
        var frontend = try world.connect(
            volume, mode: "r", [World.back("device-type"): "cdrom", World.back("removable"): "1"])
        #expect(try world.read(World.back("info")) == "7")
        #expect(try world.read(World.back("sectors")) == "56")
        #expect(try world.read(World.back("sector-size")) == "4096")
        #expect(try world.read(World.back("multi-queue-max-queues")) == "2")
        #expect(try world.read(World.back("feature-max-indirect-segments")) == nil)
        #expect(try world.read(World.back("feature-discard")) == nil)
        #expect(frontend.request(0, sector: 8) == 0)
        #expect(frontend.request(0, sector: 4) == -1, "misaligned")
        #expect(frontend.request(1, sector: 8) == -1, "read-only")
        #expect(frontend.request(2, sector: 8) == -2, "barriers are not offered")
        daemon.kill()
    }

    @Test func `barriers are offered when asked for`() throws {
        let world = try World()
        let daemon = try world.startDaemon(["--barrier"])
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(try world.read(World.back("feature-barrier")) == "1")
        frontend.fill(0x77)
        #expect(frontend.request(2, sector: 8) == 0)
        #expect(frontend.request(0, sector: 8) == 0)
        #expect(frontend.firstBytes.allSatisfy { $0 == 0x77 })
        daemon.kill()
    }

    @Test(arguments: [
        ("ring-page-order", "40"), ("multi-queue-num-queues", "0"), ("event-channel", "0"), ("ring-ref", "x"),
        ("protocol", String(repeating: "p", count: 2000)),
    ])
    func `a bad key closes the device with an error, and a good one afterwards is served`(
        _ key: String, _ value: String
    ) throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        try world.plugIn("null")
        var frontend = try Frontend(world)
        try frontend.publish([World.front(key): value])
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error"))?.hasPrefix("\(key) '") == true)
        try world.write([World.front("state"): "6"])
        #expect(try world.waitForState("6"))
        try world.remove(World.front(key))
        try world.write([World.front("state"): "1"])
        #expect(try world.waitForState("2"))
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 0) == 0)
        daemon.kill()
    }

    @Test func `a volume that does not exist closes its device only`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("/nonexistent", 51728)
        try world.plugIn("/nonexistent", 51728)
        try world.createDisk("null")
        try world.plugIn("null")
        try world.write([World.front("state", 51728): "3", World.front("ring-ref", 51728): "8"])
        try world.write([World.front("event-channel", 51728): "1", World.front("state", 51728): "3"])
        #expect(try world.waitForState("5", 51728))
        #expect(try world.read(World.back("error", 51728)) != nil)
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 0) == 0)
        daemon.kill()
    }

    @Test func `a wild producer index stops its own device and nothing else`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        try world.plugIn("null")
        let frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        frontend.claim(requests: 1000)
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error"))?.contains("requestOverrun") == true)
        #expect(daemon.ended == nil)
        daemon.kill()
    }

    @Test func `the status says at once how long the last process's I/O was waited for`() throws {
        let world = try World()
        var daemon = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        daemon.kill()
        _ = daemon.wait()
        daemon = try world.startDaemon()
        let own = #"{"process":\#(daemon.identifier),"#
        #expect(
            try world.eventually {
                guard let status = try world.status, status.hasPrefix(own) else { return false }
                return try status.contains(Regex(#""fence_wait_ns":[0-9]+,"#))
            })
        #expect(frontend.request(0, sector: 1) == 0)
        daemon.kill()
    }

    @Test func `the status file tells what is served`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        try world.plugIn("null")
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 0) == 0)
        #expect(try world.eventually { try world.status?.contains(#""read":{"requests":1,"sectors":8"#) == true })
        let text = try #require(try world.status)
        let status = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
        let device = try #require((status?["devices"] as? [[String: Any]])?.first)
        #expect(device["device"] as? String == "vbd-5-51712" && device["state"] as? String == "Connected")
        daemon.kill()
    }
}

/// The command line: one line on standard error, 2 for usage, 1 for the rest.
struct CommandLineTests {
    static func run(_ arguments: [String]) throws -> (code: Int32, errors: String) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: World.daemonPath)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardError = pipe
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        let errors = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: errors, as: UTF8.self))
    }

    @Test(arguments: [
        ([], "--domid"), (["--domid", "x"], "--domid"), (["--domid", "40000"], "--domid"),
        (["--domid", "-1"], "--domid"), (["--domid", "5", "--engine", "posix"], "--engine"),
        (["--domid", "5", "--direct", "2"], "--direct"), (["--domid", "5", "--xen", "loopback"], "--xen"),
        (["--domid", "5", "--type", "vif"], "--type"), (["--domid", "5", "--sector-size", "1024"], "--sector-size"),
        (["--domid", "5", "--max-queues", "0"], "--max-queues"),
        (["--domid", "5", "--max-queues", "9"], "--max-queues"),
        (["--domid", "5", "--max-indirect", "4097"], "--max-indirect"),
        (["--domid", "5", "--max-ring-page-order", "5"], "--max-ring-page-order"),
        (["--domid", "5", "--buffer-ceiling", "0"], "--buffer-ceiling"),
        (["--domid", "5", "--log-level", "loud"], "--log-level"), (["--domid", "5", "--nonsense"], "--nonsense"),
        (["--domid", "5", "extra"], "extra"),
    ])
    func `a command line that makes no sense`(_ arguments: [String], _ thing: String) throws {
        let (code, errors) = try Self.run(arguments)
        #expect(code == 2)
        #expect(errors.contains(thing) && errors.hasPrefix("xen-blkbackd: "))
        #expect(errors.filter { $0 == "\n" }.count == 1)
    }

    @Test func `help is no error`() throws {
        #expect(try Self.run(["--help"]).code == 0)
    }

    @Test func `a world that is not there`() throws {
        let (code, errors) = try Self.run(
            ["--domid", "5", "--xen", "loopback:/nonexistent", "--log-level", "critical"])
        #expect(code == 1)
        #expect(errors.contains("/nonexistent") && errors.filter { $0 == "\n" }.count == 1)
    }

    @Test func `a second daemon is refused at once`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        let (code, errors) = try Self.run(
            ["--domid", "5", "--xen", "loopback:\(world.directory)", "--log-level", "critical"])
        #expect(code == 3)
        #expect(errors.contains("process \(daemon.identifier) serves this already"))
        daemon.kill()
    }
}
