import Descriptors
import Foundation
import Loopback
import SharedRing
import Testing
import XenWire
import Xenstore

/// Guests that lie, vanish or never sit still, volumes and stores that go away: each stays its own problem.
@Suite(.serialized)
struct HardshipTests {
    /// A daemon, its toolstack and a guest with blkfront.
    private struct Host {
        let world: World
        let daemon: ChildProcess
        let toolstack: Toolstack

        init() throws {
            world = try World(pages: 16_384, references: 16_384)
            daemon = try world.startDaemon()
            toolstack = try Toolstack(world.client(0))
            try toolstack.createDomain(World.domain)
        }

        func attach(_ volume: String, number: UInt32 = 51712) throws -> BlockFrontend {
            let disk = disk(volume, number: number)
            try toolstack.attach(disk)
            return try BlockFrontend(world.guest, world.client(5), at: disk.frontendPath)
        }

        func disk(_ volume: String, number: UInt32 = 51712) -> Loopback.DiskDescription {
            Loopback.DiskDescription(domain: World.domain, volume: volume, number: number)
        }

        /// What the daemon has open; without the domain's memory, which the loopback platform opens with the first copy.
        var descriptors: [String] {
            let directory = "/proc/\(daemon.identifier)/fd"
            let files = FileManager.default
            let names = (try? files.contentsOfDirectory(atPath: directory)) ?? []
            return names.compactMap { try? files.destinationOfSymbolicLink(atPath: "\(directory)/\($0)") }
                .filter { !$0.hasPrefix("/memfd:") }.sorted()
        }
    }

    private static let options = FrontendOptions(queues: 2, queue: FrontQueueOptions(slots: 8, segments: 2))

    /// Puts a write on every free slot and does not wait.
    private func load(_ frontend: BlockFrontend) {
        for box in frontend.queues {
            box.withQueue { queue in
                while let slot = queue.takeSlot() {
                    queue.submit(slot, .write, sector: UInt64(slot) * 8, sectors: 8, at: 0)
                }
                queue.publish()
            }
        }
    }

    /// One write and its answer.
    private func write(_ frontend: BlockFrontend, sector: UInt64 = 0) throws -> BlockStatus? {
        try frontend.queues[0].withQueue { queue in
            guard let slot = queue.takeSlot() else { return nil }
            queue.submit(slot, .write, sector: sector, sectors: 8, at: 0)
            queue.publish()
            for _ in 0..<20_000 {
                if try queue.reap() > 0 { return queue.completion(0).status }
                usleep(500)
            }
            return nil
        }
    }

    @Test func `a guest connects and closes a thousand times with requests in flight`() throws {
        let host = try Host()
        let frontend = try host.attach(try host.world.makeVolume(sectors: 512))
        _ = try frontend.connect(Self.options)
        let before = host.descriptors
        for _ in 0..<1000 {
            load(frontend)
            try frontend.close()
            #expect(host.world.hypervisor.mappedPages(of: World.domain) == 0)
            try frontend.reopen()
            _ = try frontend.connect(Self.options)
        }
        #expect(try write(frontend) == .okay)
        let now = host.descriptors
        #expect(now.count == before.count, "\(before) at first, \(now) now")
        host.daemon.kill()
    }

    @Test func `a guest destroyed under full load leaves nothing behind, and the next one is served`() throws {
        let host = try Host()
        let volume = try host.world.makeVolume(sectors: 512)
        // Keeps the daemon there.
        try host.toolstack.attach(host.disk("null", number: 51728))
        for _ in 0..<20 {
            let frontend = try host.attach(volume)
            _ = try frontend.connect(Self.options)
            load(frontend)
            #expect(try host.toolstack.remove(host.disk(volume), .forced), "the backend must close by itself")
            #expect(host.world.hypervisor.mappedPages(of: World.domain) == 0)
            try frontend.release()
        }
        #expect(try host.toolstack.remove(host.disk("null", number: 51728), .forced))
        #expect(host.daemon.wait() == .exited(0))
    }

    @Test func `a domain that dies without a toolstack's help costs its connection only`() throws {
        let host = try Host()
        let frontend = try host.attach(try host.world.makeVolume(sectors: 512))
        _ = try frontend.connect(Self.options)
        load(frontend)
        host.world.hypervisor.destroyDomain(World.domain)
        #expect(try host.toolstack.remove(host.disk("", number: 51712), .forced))
        #expect(host.daemon.wait() == .exited(0))
    }

    @Test func `a volume that shrinks under its guest fails what lies behind its end; another disk does not notice`()
        throws
    {
        let host = try Host()
        let volume = try host.world.makeVolume(sectors: 512)
        let frontend = try host.attach(volume)
        _ = try frontend.connect(Self.options)
        let other = try host.attach("null", number: 51728)
        _ = try other.connect(Self.options)
        unsafe #expect(truncate(volume, 0) == 0)
        #expect(try host.world.wait(World.back("sectors"), "0"))
        #expect(try write(frontend) == .error)
        #expect(try write(other) == .okay)
        #expect(try host.world.read(World.back("state")) == "4")
        unsafe #expect(truncate(volume, 512 * 512) == 0)
        #expect(try host.world.wait(World.back("sectors"), "512"))
        #expect(try write(frontend) == .okay)
        host.daemon.kill()
    }

    @Test func `xenstored starts anew and empty: I/O goes on, until the guest is gone`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect("null")
        world.xenstored.stop()
        for _ in 0..<20 { #expect(frontend.request(1, sector: 0) == 0, "without a store") }
        let empty = try XenstoreServer(directory: world.directory)
        defer { empty.stop() }
        // Two looks at the empty store, at one a second.
        for _ in 0..<25 {
            #expect(frontend.request(1, sector: 0) == 0, "with an empty store")
            usleep(100_000)
        }
        #expect(daemon.ended == nil)
        world.hypervisor.destroyDomain(World.domain)
        #expect(daemon.wait() == .exited(0))
    }

    @Test func `xenstored stands still for a while: I/O goes on, and then so do disks`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect("null")
        world.xenstored.stop()
        for _ in 0..<30 {
            #expect(frontend.request(1, sector: 0) == 0)
            usleep(100_000)
        }
        let next = try XenstoreServer(directory: world.directory)
        defer { next.stop() }
        let toolstack = try world.client(0)
        let tree = [
            World.back("frontend", 51728): World.front("", 51728), World.back("frontend-id", 51728): "5",
            World.back("online", 51728): "1", World.back("state", 51728): "1", World.back("mode", 51728): "w",
            World.back("params", 51728): "null", World.front("state", 51728): "1",
        ]
        try toolstack.transaction { store throws(XenstoreError) in
            for (path, value) in tree { try store.write(XenstorePath(path), value) }
        }
        #expect(try world.eventually { try toolstack.read(XenstorePath(World.back("state", 51728)))?.text == "2" })
        daemon.kill()
    }

    @Test func `a second daemon is refused and the first serves on`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        var frontend = try world.connect("null")
        for _ in 0..<5 {
            let second = try world.startDaemon()
            #expect(second.wait() == .exited(3))
            #expect(frontend.request(1, sector: 0) == 0)
        }
        #expect(try world.read(World.back("state")) == "4" && daemon.ended == nil)
        daemon.kill()
    }

    @Test(arguments: [
        ("ring-ref", "200"), ("ring-ref", "4294967295"), ("event-channel", "131071"), ("event-channel", "77"),
        ("feature-persistent", "yes"), ("ring-ref", "8\u{0}"), ("multi-queue-num-queues", "4294967297"),
    ])
    func `a frontend that lies while it connects gets an error and may try again`(
        _ key: String, _ value: String
    ) throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        try world.plugIn("null")
        var frontend = try Frontend(world)
        try frontend.publish([World.front(key): value])
        #expect(try world.waitForState("5"))
        #expect(try world.read(World.back("error")) != nil)
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

    @Test func `a frontend that rewrites its state and keys without end keeps nobody else waiting`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        try world.plugIn("null")
        try world.createDisk("null", 51728)
        try world.plugIn("null", 51728)
        let liar = try world.client(0)
        for round in 0..<2000 {
            try liar.write(XenstorePath(World.front("ring-ref", 51728)), "\(round)")
            try liar.write(XenstorePath(World.front("event-channel", 51728)), "\(round)")
            try liar.write(XenstorePath(World.front("state", 51728)), "\([3, 5, 6, 1, 4, 9][round % 6])")
        }
        var frontend = try Frontend(world)
        try frontend.publish()
        #expect(try world.waitForState("4"))
        #expect(frontend.request(0, sector: 0) == 0)
        #expect(daemon.ended == nil)
        daemon.kill()
    }
}
