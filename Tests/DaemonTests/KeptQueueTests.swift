import Descriptors
import Foundation
import Loopback
import Service
import Testing

/// The real xen-netbackd under a service manager that keeps the TAP device's queues open while there is no process.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct KeptQueueTests {
    /// An interface that is up and whose guest the host knows.
    private final class Stage {
        let world: NetWorld
        let keeper: DescriptorKeeper
        let front: NetFrontQueue
        var daemon: ChildProcess

        init(before: (DescriptorStore) throws -> Void = { _ in }) throws {
            world = try NetWorld()
            keeper = try DescriptorKeeper(in: world.base.directory)
            try before(keeper.store)
            daemon = try world.startDaemon(store: keeper.store)
            try world.createInterface()
            try #require(try world.base.wait(NetWorld.back("state"), "2"))
            _ = try world.inNamespace(
                """
                ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up
                ip neigh replace 10.9.0.2 lladdr 00:16:3e:00:00:05 dev vif5.0
                """)
            try world.plugIn()
            front = try world.connect()
            try #require(try world.base.wait(NetWorld.back("state"), "4"))
            _ = try #require(try world.resolve(front))
        }

        deinit {
            daemon.kill()
            keeper.stop()
        }

        /// Every process for itself, by SIGKILL or SIGTERM.
        func replaceDaemon(_ signal: Int32, meanwhile: () throws -> Void = {}) throws {
            daemon.signal(signal)
            _ = daemon.wait()
            try meanwhile()
            daemon = try world.startDaemon(store: keeper.store)
        }

        /// The numbers that have come to the guest, until so many are there or nothing comes any more.
        func take(_ count: Int) throws -> [Int] {
            var numbers: [Int] = []
            _ = try world.base.eventually {
                try front.reap()
                numbers += try front.take().compactMap { Self.number($0.bytes) }
                return numbers.count >= count
            }
            return numbers
        }

        /// Behind Ethernet, IP and UDP headers: `number 7`.
        private static func number(_ frame: [UInt8]) -> Int? {
            guard frame.count > 49, frame[23] == 17 else { return nil }
            let text = String(decoding: frame[42...].prefix { $0 != 10 }, as: UTF8.self)
            return text.hasPrefix("number ") ? Int(text.dropFirst(7)) : nil
        }
    }

    @Test(arguments: [SIGKILL, SIGTERM])
    func `what the host sends while there is no process comes to the guest, in its order and once`(
        signal: Int32
    ) throws {
        let stage = try Stage()
        let world = stage.world
        for round in 0..<5 {
            let numbers = round * 100..<round * 100 + 100
            try stage.replaceDaemon(signal) {
                #expect(try world.inNamespace("ip -o link show vif5.0").contains("LOWER_UP"), "the cable is in")
                try Self.send(numbers, world)
            }
            #expect(try stage.take(100) == Array(numbers))
        }
        #expect(try world.base.read(NetWorld.back("state")) == "4")
    }

    /// Packets with a number each, for the guest.
    private static func send(_ numbers: Range<Int>, _ world: NetWorld) throws {
        _ = try world.inNamespace(
            "bash -c 'for i in $(seq \(numbers.lowerBound) \(numbers.upperBound - 1)); do"
                + " echo number $i > /dev/udp/10.9.0.2/9; done'")
    }

    @Test func `an interface that a script has renamed is served on`() throws {
        let stage = try Stage()
        _ = try stage.world.inNamespace(
            "ip link set vif5.0 down && ip link set vif5.0 name uplink && ip link set uplink up")
        try stage.replaceDaemon(SIGKILL)
        _ = try stage.world.inNamespace("ip neigh replace 10.9.0.2 lladdr 00:16:3e:00:00:05 dev uplink")
        try Self.send(0..<10, stage.world)
        #expect(try stage.take(10) == Array(0..<10))
        #expect(try !stage.world.inNamespace("ip -o link show").contains("vif5.0"))
    }

    @Test func `what was left and is no queue is given back, and the interface is served`() throws {
        let stage = try Stage { store in
            let manager = ServiceManager(socket: store.path)
            // The first is no queue at all; behind it there is a hole.
            manager.keep(STDIN_FILENO, as: "vif0.queue0")
            manager.keep(STDIN_FILENO, as: "vif0.queue3")
            manager.settle()
        }
        let all = Set((0..<8).map { "vif0.queue\($0)" })
        let keeper = stage.keeper
        #expect(try stage.world.base.eventually { Set(keeper.store.names) == all && keeper.store.names.count == 8 })
        try stage.replaceDaemon(SIGKILL)
        try Self.send(0..<10, stage.world)
        #expect(try stage.take(10) == Array(0..<10))
        #expect(keeper.store.names.count == 8)
    }

    @Test func `an interface that goes takes its queues along`() throws {
        let stage = try Stage()
        let (world, keeper) = (stage.world, stage.keeper)
        try world.base.write([NetWorld.back("online"): "0", NetWorld.back("state"): "5"])
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        try world.base.write([NetWorld.front("state"): "6"])
        #expect(try world.base.wait(NetWorld.back("state"), "6"))
        try world.base.remove("/local/domain/0/backend/vif/5")
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("vif5.0") })
        #expect(keeper.store.names.isEmpty)
    }

    @Test func `an interface that goes while there is no process takes its queues along`() throws {
        let stage = try Stage()
        let (world, keeper) = (stage.world, stage.keeper)
        try stage.replaceDaemon(SIGKILL) { try world.base.remove("/local/domain/0/backend/vif/5") }
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("vif5.0") })
        #expect(keeper.store.names.isEmpty)
    }

    /// The queues are the only handle on it: a record that an older version has made does not say its number.
    @Test func `a renamed interface that goes while there is no process takes its device along`() throws {
        let stage = try Stage()
        let (world, keeper) = (stage.world, stage.keeper)
        _ = try world.inNamespace("ip link set vif5.0 down && ip link set vif5.0 name uplink")
        try stage.replaceDaemon(SIGKILL) {
            try world.base.remove("/local/domain/0/backend/vif/5")
            try Data().write(to: URL(fileURLWithPath: world.base.directory + "/state/vif-5.0.tap"))
        }
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("uplink") })
        #expect(keeper.store.names.isEmpty)
    }

    @Test func `an interface whose device was taken over and could not be noted takes its queues along`() throws {
        let stage = try Stage()
        let (world, keeper) = (stage.world, stage.keeper)
        let obstacle = world.base.directory + "/state/vif-5.0.tap.new"
        try stage.replaceDaemon(SIGKILL) {
            try FileManager.default.createDirectory(atPath: obstacle, withIntermediateDirectories: false)
        }
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        try world.base.remove("/local/domain/0/backend/vif/5")
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("vif5.0") })
        #expect(keeper.store.names.isEmpty)
    }

    /// That one removes the device's record, and cannot have the queues given up.
    @Test func `queues of an interface that another domain's daemon has cleared away are forgotten`() throws {
        let stage = try Stage()
        let (world, keeper) = (stage.world, stage.keeper)
        let record = world.base.directory + "/state/vif-5.0.tap"
        try stage.replaceDaemon(SIGKILL) {
            try world.base.remove("/local/domain/0/backend/vif/5")
            let other = try world.startDaemon(domain: 6)
            #expect(try world.base.eventually { !FileManager.default.fileExists(atPath: record) })
            other.kill()
            _ = other.wait()
        }
        #expect(try world.base.eventually { keeper.store.names.isEmpty })
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link show").contains("vif5.0") })
    }
}
