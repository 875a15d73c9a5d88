import CXen
import Descriptors
import Foundation
import Loopback
import NetBackend
import SharedRing
import Testing
import XenWire
import Xenstore

/// The real xen-netbackd, killed under a guest that goes on.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetKillTests {
    /// An interface that is up and has 10.9.0.1 on the host's side.
    private static func world(pages: UInt32 = 2048) throws -> (NetWorld, ChildProcess) {
        let world = try NetWorld(pages: pages)
        let daemon = try world.startDaemon()
        try world.createInterface()
        try #require(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace("ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up")
        try world.plugIn()
        return (world, daemon)
    }

    private static func index(_ world: NetWorld) throws -> String {
        try world.inNamespace("cat /proc/net/dev >/dev/null; ip -o link show vif5.0 | cut -d: -f1")
    }

    /// Sends until the process is gone, and what was sent is answered by the next one.
    private static func sendDuring(_ front: NetFrontQueue, _ end: () -> Void) throws {
        for round in 0..<40 {
            if round == 20 { end() }
            for size in [60, 1514, 9000] { front.send(Self.frame(size)) }
            front.publish()
            usleep(200)
            try front.reap()
            _ = try front.take()
        }
    }

    private static func allIsAnswered(_ front: NetFrontQueue, _ world: NetWorld) throws -> Bool {
        try world.base.eventually {
            try front.reap()
            _ = try front.take()
            return front.isIdle
        }
    }

    /// For a station that does not exist.
    private static func frame(_ size: Int) -> [UInt8] {
        [2, 0, 0, 0, 0, 9, 0, 0x16, 0x3E, 0, 0, 5, 0x12, 0x34] + [UInt8](repeating: 7, count: size - 14)
    }

    @Test(arguments: [SIGKILL, SIGTERM])
    func `a process that ends again and again costs the guest nothing but time`(signal: Int32) throws {
        var (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        let before = try Self.index(world)
        for round in 0..<(signal == SIGKILL ? 30 : 8) {
            // It throws if an answer is not the next one's.
            try Self.sendDuring(front) { daemon.signal(signal) }
            _ = daemon.wait()
            #expect(try world.base.read(NetWorld.back("state")) == "4")
            daemon = try world.startDaemon()
            #expect(try Self.allIsAnswered(front, world), "\(round)")
        }
        #expect(front.statuses.keys.allSatisfy { $0 == 0 })
        #expect(try world.base.read(NetWorld.back("state")) == "4")
        #expect(try Self.index(world) == before)
        #expect(try world.inNamespace("ip -o addr show vif5.0").contains("10.9.0.1/24"))
        #expect(try world.resolve(front) == host)
        #expect(try world.ping(front, host, payload: 1400) != nil)
        daemon.kill()
    }

    @Test func `a 4 that somebody takes back is written again, and costs the guest nothing`() throws {
        let (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        for round in 0..<10 {
            try Self.sendDuring(front) { try? world.base.write([NetWorld.back("state"): "2"]) }
            #expect(try Self.allIsAnswered(front, world), "\(round)")
            #expect(try world.base.wait(NetWorld.back("state"), "4"))
        }
        #expect(front.statuses.keys.allSatisfy { $0 == 0 })
        #expect(try world.resolve(front) == host)
        daemon.kill()
    }

    /// A frontend uses its rings before it sees our 4.
    @Test func `a process that is killed before it could say 4 costs the guest nothing either`() throws {
        var (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        for round in 0..<20 {
            try Self.sendDuring(front) { daemon.kill() }
            _ = daemon.wait()
            try world.base.write([NetWorld.back("state"): "2"])
            daemon = try world.startDaemon()
            #expect(try Self.allIsAnswered(front, world), "\(round)")
            #expect(try world.base.wait(NetWorld.back("state"), "4"))
        }
        #expect(front.statuses.keys.allSatisfy { $0 == 0 })
        #expect(try world.resolve(front) == host)
        #expect(try world.ping(front, host, payload: 1400) != nil)
        daemon.kill()
    }

    /// The process goes over to them, and is killed at one instant or another of that.
    @Test func `a guest that makes itself new rings has them served, whoever is killed meanwhile`() throws {
        var (world, daemon) = try Self.world(pages: 8192)
        var front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        for round in 0..<14 {
            front = try world.connect()
            usleep(UInt32(round) * 700)
            daemon.kill()
            _ = daemon.wait()
            daemon = try world.startDaemon()
            try #require(try world.resolve(front) != nil, "\(round)")
            #expect(try world.base.read(NetWorld.back("state")) == "4")
        }
        daemon.kill()
    }

    @Test func `nodes that have become wrong change nothing, in a process that lives or in the next one`() throws {
        var (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        // A byte an hour: what passes is a burst of 128 KiB.
        try world.base.write([NetWorld.back("rate"): "1,4294967295"])
        func passes(_ front: NetFrontQueue) throws -> Int {
            var passed = 0
            while passed < 200, try world.ping(front, host, payload: 1400, seconds: 5) != nil { passed += 1 }
            return passed
        }
        #expect(try (1..<100).contains(passes(front)))
        try world.base.write([
            NetWorld.back("rate"): "much", NetWorld.back("mac"): "mine", NetWorld.back("mtu"): "-1",
        ])
        #expect(try passes(front) == 0)
        daemon.kill()
        _ = daemon.wait()
        daemon = try world.startDaemon()
        #expect(try world.resolve(front) == host)
        #expect(try (1..<100).contains(passes(front)), "the limit holds, and begins with a burst")
        #expect(try world.base.read(NetWorld.back("state")) == "4")
        // Nor do they when the guest makes itself new rings.
        let next = try world.connect()
        #expect(try world.resolve(next) == host)
        #expect(try passes(next) < 100)
        #expect(try world.base.read(NetWorld.back("state")) == "4")
        try world.base.write([NetWorld.back("rate"): "10000000,10000"])
        #expect(try world.resolve(next) == host)
        #expect(try world.ping(next, host, payload: 1400) != nil)
        daemon.kill()
    }

    @Test(arguments: ["4", "2"])
    func `a multicast list survives`(state: String) throws {
        var (world, daemon) = try Self.world()
        let front = try world.connect(0, ["request-multicast-control": "1"])
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        _ = try world.inNamespace("ip route add 239.0.0.0/8 dev vif5.0")
        front.changeGroups(MACAddress(1, 0, 0x5E, 1, 1, 1), joins: true)
        front.publish()
        #expect(
            try world.base.eventually {
                try front.reap()
                return front.isIdle
            })
        daemon.kill()
        _ = daemon.wait()
        // Killed after it had said 4, or before.
        try world.base.write([NetWorld.back("state"): state])
        daemon = try world.startDaemon()
        _ = try #require(try world.resolve(front))
        var seen: Swift.Set<UInt8> = []
        #expect(
            try world.base.eventually {
                _ = try world.inNamespace(
                    "bash -c 'echo x > /dev/udp/239.1.1.1/9; echo x > /dev/udp/239.1.1.2/9' || true")
                for frame in try front.take().map(\.bytes) where frame.starts(with: [1, 0, 0x5E, 1, 1]) {
                    seen.insert(frame[5])
                }
                return !seen.isEmpty
            })
        #expect(seen == [1], "the list is followed, and no other group comes")
        daemon.kill()
    }

    @Test func `what was set on the control ring survives`() throws {
        var (world, daemon) = try Self.world()
        let control = try NetFrontControl(world.base.guest, backend: DomainID(0))
        let front = try world.connect(
            0,
            ["ctrl-ring-ref": "\(control.reference)", "event-channel-ctrl": "\(control.port.number)"])
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        func ask(_ type: UInt16, _ data: UInt32 = 0) throws -> [UInt32] {
            control.put(type, data)
            control.publish()
            var answers: [UInt32] = []
            _ = try world.base.eventually {
                answers += try control.reap().flatMap { [$0.status, $0.data] }
                return !answers.isEmpty
            }
            return answers
        }
        #expect(try ask(7, 1) == [0, 0])
        #expect(try ask(2, 15) == [0, 0])
        // Asked while nobody is there.
        daemon.kill()
        _ = daemon.wait()
        control.put(1)
        control.publish()
        daemon = try world.startDaemon()
        // Which hashes there are is said only where an algorithm is set.
        var answers: [UInt32] = []
        #expect(
            try world.base.eventually {
                answers += try control.reap().flatMap { [$0.status, $0.data] }
                return !answers.isEmpty
            })
        #expect(answers == [0, 15])
        front.takesHashes = true
        let host = try #require(try world.resolve(front))
        #expect(try world.ping(front, host, payload: 100) != nil)
        daemon.kill()
    }

    @Test func `a guest that has made itself new rings meanwhile starts afresh`() throws {
        var (world, daemon) = try Self.world()
        let before = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        daemon.kill()
        _ = daemon.wait()
        let front = try world.connect()
        #expect(before.isIdle)
        daemon = try world.startDaemon()
        let host = try #require(try world.resolve(front))
        #expect(try world.ping(front, host, payload: 100) != nil)
        #expect(try world.base.read(NetWorld.back("state")) == "4")
        daemon.kill()
    }

    @Test(arguments: ["0.queue0", "0.policy"])
    func `of rings whose journal is damaged or missing nothing is touched`(file: String) throws {
        for isMissing in [false, true] {
            var (world, daemon) = try Self.world()
            let front = try world.connect()
            #expect(try world.base.wait(NetWorld.back("state"), "4"))
            _ = try #require(try world.resolve(front))
            daemon.kill()
            _ = daemon.wait()
            let path = world.base.directory + "/state/vif-5.\(file)"
            var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
            bytes[140] ^= 1
            if isMissing { unsafe unlink(path) } else { try bytes.write(to: URL(fileURLWithPath: path)) }
            daemon = try world.startDaemon()
            #expect(try world.base.wait(NetWorld.back("state"), "5"))
            let error = try world.base.read(NetWorld.back("error"))
            #expect(error?.hasPrefix("cannot be served on, the guest loses it: ") == true, "\(error ?? "")")
            daemon.kill()
        }
    }

    @Test(arguments: [5, 6])
    func `an interface that goes while nobody serves it leaves no TAP device`(next: Int) throws {
        var (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        _ = try #require(try world.resolve(front))
        daemon.kill()
        _ = daemon.wait()
        #expect(try world.inNamespace("ip -o link show").contains("vif5.0"))
        try world.base.remove("/local/domain/0/backend/vif/5")
        daemon = try world.startDaemon(domain: next)
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("vif5.0") })
        #expect(
            try world.base.eventually {
                try FileManager.default.contentsOfDirectory(atPath: world.base.directory + "/state")
                    .allSatisfy { !$0.hasPrefix("vif-5.0.") }
            })
        daemon.kill()
    }

    @Test func `an interface that is closed leaves no journal`() throws {
        let (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let state = world.base.directory + "/state"
        #expect(try FileManager.default.contentsOfDirectory(atPath: state).contains("vif-5.0.queue0"))
        try world.base.write([NetWorld.front("state"): "5"])
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        let left = try FileManager.default.contentsOfDirectory(atPath: state)
        #expect(left.allSatisfy { !$0.contains("queue") && !$0.contains("policy") }, "\(left)")
        #expect(front.isIdle)
        daemon.kill()
    }
}
