import CXen
import Descriptors
import Foundation
import Loopback
import SharedRing
import Testing
import XenWire
import Xenstore

/// What a guest asks for while it is connected, followed by the real xen-netbackd on a real TAP device.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetWishesTests {
    /// An interface that is up, has 10.9.0.1 on the host's side, and says nothing unasked.
    private static func world() throws -> (NetWorld, ChildProcess) {
        let world = try NetWorld()
        let daemon = try world.startDaemon()
        try world.createInterface()
        try #require(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace(
            """
            echo 1 > /proc/sys/net/ipv6/conf/vif5.0/disable_ipv6
            ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up && ip route add 239.0.0.0/8 dev vif5.0
            """)
        try world.plugIn()
        return (world, daemon)
    }

    private static let group = MACAddress(1, 0, 0x5E, 1, 1, 1)

    /// A datagram to the group, then one to the guest: the group's reaches it if it comes before the other.
    private static func reachesGroup(_ world: NetWorld, _ front: NetFrontQueue) throws -> Bool {
        _ = try world.inNamespace(
            """
            ip neigh replace 10.9.0.2 lladdr 00:16:3e:00:00:05 dev vif5.0
            bash -c 'echo x > /dev/udp/239.1.1.1/9; echo x > /dev/udp/10.9.0.2/9'
            """)
        var reached = false
        var isOver = false
        _ = try world.base.eventually {
            try front.reap()
            for frame in try front.take() {
                if frame.bytes.prefix(6).elementsEqual([1, 0, 0x5E, 1, 1, 1]) { reached = true }
                if frame.bytes.prefix(6).elementsEqual([0, 0x16, 0x3E, 0, 0, 5]), frame.bytes[13] == 0 {
                    isOver = true
                }
            }
            return isOver
        }
        try #require(isOver)
        return reached
    }

    @Test func `groups are kept back from the moment that the guest asks for it`() throws {
        let (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try Self.reachesGroup(world, front))
        try world.base.write([NetWorld.front("request-multicast-control"): "1"])
        #expect(try world.base.eventually { try !Self.reachesGroup(world, front) })
        front.changeGroups(Self.group, joins: true)
        front.publish()
        #expect(try world.base.eventually { try Self.reachesGroup(world, front) })
        front.changeGroups(Self.group, joins: false)
        front.publish()
        #expect(try world.base.eventually { try !Self.reachesGroup(world, front) })
        try world.base.write([NetWorld.front("request-multicast-control"): "0"])
        #expect(try world.base.eventually { try Self.reachesGroup(world, front) })
        try world.base.write([NetWorld.front("request-multicast-control"): "perhaps"])
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        let error = try world.base.read(NetWorld.back("error"))
        #expect(error == "request-multicast-control 'perhaps': must be 0 or 1")
        daemon.kill()
    }

    /// As xen-netfront does when an XDP program comes and goes.
    @Test func `headroom is made while the guest stays connected`() throws {
        let (world, daemon) = try Self.world()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        for headroom in [UInt16(256), 0, 64] {
            try world.base.write([NetWorld.front("xdp-headroom"): "\(headroom)", NetWorld.front("state"): "7"])
            #expect(try world.base.wait(NetWorld.back("state"), "8"))
            front.headroom = headroom
            try world.base.write([NetWorld.front("state"): "4"])
            #expect(try world.base.wait(NetWorld.back("state"), "4"))
            #expect(try world.ping(front, host, payload: 1400) != nil, "the strict frontend takes it")
        }
        daemon.kill()
    }

    @Test func `packets carry their hash, and come on the queue that the guest's table names`() throws {
        let (world, daemon) = try Self.world()
        let fronts = try (0..<2).map { _ in
            try NetFrontQueue(world.base.guest, backend: DomainID(0), isSplit: false)
        }
        let control = try NetFrontControl(world.base.guest, backend: DomainID(0))
        var nodes = [
            NetWorld.front("multi-queue-num-queues"): "2", NetWorld.front("request-rx-copy"): "1",
            NetWorld.front("feature-rx-notify"): "1", NetWorld.front("feature-sg"): "1",
            NetWorld.front("ctrl-ring-ref"): "\(control.reference)",
            NetWorld.front("event-channel-ctrl"): "\(control.port.number)", NetWorld.front("state"): "4",
        ]
        for (index, front) in fronts.enumerated() {
            nodes[NetWorld.front("queue-\(index)/tx-ring-ref")] = "\(front.references.transmit)"
            nodes[NetWorld.front("queue-\(index)/rx-ring-ref")] = "\(front.references.receive)"
            nodes[NetWorld.front("queue-\(index)/event-channel")] = "\(front.transmitPort.number)"
        }
        try world.base.write(nodes)
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        for front in fronts { front.takesHashes = true }
        func ask(_ type: UInt16, _ data: UInt32...) throws {
            control.put(type, data[0], data.count > 1 ? data[1] : 0, data.count > 2 ? data[2] : 0)
            control.publish()
            var answers: [UInt32] = []
            #expect(
                try world.base.eventually {
                    answers += try control.reap().map(\.status)
                    return !answers.isEmpty
                })
            #expect(answers == [0], "request \(type)")
        }
        try ask(7, 1)
        try ask(2, 15)
        control.fill([0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D])
        try ask(3, control.data.rawValue, 12)
        try ask(5, 1)
        for queue in [1, 0, 1] {
            control.fill([UInt8(queue), 0, 0, 0])
            try ask(6, control.data.rawValue, 1, 0)
            for _ in 0..<3 {
                _ = try world.inNamespace(
                    """
                    ip neigh replace 10.9.0.2 lladdr 00:16:3e:00:00:05 dev vif5.0
                    bash -c 'echo x > /dev/udp/10.9.0.2/9'
                    """)
                var found: [(queue: Int, hash: PacketHash?)] = []
                #expect(
                    try world.base.eventually {
                        for (index, front) in fronts.enumerated() {
                            for frame in try front.take() where frame.bytes[12] == 8 && frame.bytes[23] == 17 {
                                found.append((index, frame.hash))
                            }
                        }
                        return !found.isEmpty
                    })
                #expect(found.map(\.queue) == [queue])
                #expect(found.allSatisfy { $0.hash?.kind == .ipv4 && $0.hash?.value != 0 })
            }
        }
        control.claim(0x8000_0000)
        control.port.channel.notify()
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        let error = try world.base.read(NetWorld.back("error"))
        #expect(error == "control ring: the frontend broke a rule: ringOverrun")
        daemon.kill()
    }
}
