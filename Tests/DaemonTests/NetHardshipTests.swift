import CXen
import Descriptors
import Foundation
import Loopback
import SharedRing
import Synchronization
import Testing
import XenWire
import Xenstore

/// Guests that lie, break rules or never sit still, and interfaces that cannot be: each stays its own problem. The
/// interface with number 0 suffers, the one with number 1 must not notice.
@Suite(
    .serialized, .enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetHardshipTests {
    /// One daemon with two interfaces at state 2, whose networks on the host's side are 10.9.0.0 and 10.9.1.0.
    private struct Host {
        let world: NetWorld
        let daemon: ChildProcess

        init() throws {
            world = try NetWorld(pages: 4096)
            daemon = try world.startDaemon()
            for number in 0...1 { try plug(number) }
        }

        private func plug(_ number: Int) throws {
            try world.createInterface(number)
            try #require(try waits(2, number))
            // The host knows its guest for good: nobody here answers when it asks.
            _ = try world.inNamespace(
                """
                echo 1 > /proc/sys/net/ipv6/conf/vif5.\(number)/disable_ipv6
                ip addr add 10.9.\(number).1/24 dev vif5.\(number) && ip link set vif5.\(number) up
                ip neigh replace 10.9.\(number).2 lladdr 00:16:3e:00:00:05 dev vif5.\(number) nud permanent
                """)
            try world.plugIn(number)
        }

        func waits(_ state: Int, _ number: Int = 0) throws -> Bool {
            try world.base.wait(NetWorld.back("state", number), "\(state)")
        }

        func read(_ name: String) throws -> String? { try world.base.read(NetWorld.back(name)) }

        func setState(_ state: Int) throws { try world.base.write([NetWorld.front("state"): "\(state)"]) }

        func connect(_ number: Int = 0, _ changes: [String: String?] = [:]) throws -> NetFrontQueue {
            let front = try world.connect(number, changes)
            try #require(try waits(4, number))
            return front
        }

        /// Frames pass from the guest and to it.
        func passes(_ front: NetFrontQueue, _ number: Int = 0) throws -> Bool {
            let network = UInt8(number)
            guard let host = try world.resolve(front, network: network) else { return false }
            return try world.ping(front, host, payload: 1400, network: network) != nil
        }

        /// As a guest does whose interface was closed by the other side.
        func reconnect(_ changes: [String: String?] = [:]) throws -> NetFrontQueue {
            try startAgain()
            return try connect(0, changes)
        }

        func startAgain() throws {
            try setState(6)
            try #require(try waits(6))
            try setState(1)
            try #require(try waits(2))
        }

        /// As a guest does that closes its interface itself.
        func reconnectAfterClosing() throws -> NetFrontQueue {
            try setState(5)
            try #require(try waits(5))
            return try reconnect()
        }

        func hasCarrier() throws -> Bool {
            try world.base.eventually { try world.inNamespace("ip -o link show vif5.0").contains("LOWER_UP") }
        }
        func hasNoCarrier() throws -> Bool {
            try world.base.eventually { try world.inNamespace("ip -o link show vif5.0").contains("NO-CARRIER") }
        }
    }

    // MARK: rules of the rings

    /// What a frontend can do on its rings to break each rule.
    enum Attack: CaseIterable {
        case transmitOverrun, transmitTakenBack, receiveOverrun, packetWithoutEnd, extraWithoutEnd, tooManySlots
        case unknownExtra, repeatedSegmentation, repeatedGroup, segmentOfNothing, unknownSegmentation
        case firstBeyondPage, otherBeyondPage

        var violation: NetViolation {
            switch self {
            case .transmitOverrun, .transmitTakenBack, .receiveOverrun: .ringOverrun
            case .packetWithoutEnd, .extraWithoutEnd: .chainWithoutEnd
            case .tooManySlots: .tooManySlots
            case .unknownExtra: .unknownExtra
            case .repeatedSegmentation, .repeatedGroup: .repeatedExtra
            case .segmentOfNothing: .segmentOfNothing
            case .unknownSegmentation: .unknownSegmentation
            case .firstBeyondPage, .otherBeyondPage: .beyondPage
            }
        }

        /// What is put on the transmit ring.
        var slots: [netif_tx_request_wire] {
            switch self {
            case .transmitOverrun, .transmitTakenBack, .receiveOverrun: []
            case .packetWithoutEnd: [Self.data(.moreData)]
            case .extraWithoutEnd: [Self.data(.extraInfo), Self.extra(1, more: true, 1000, 1)]
            case .tooManySlots: Array(repeating: Self.data(.moreData, size: 0), count: NetRing.fatalSlots + 1)
            case .unknownExtra: [Self.data(.extraInfo), Self.extra(9, 1000, 1)]
            case .repeatedSegmentation:
                [Self.data(.extraInfo), Self.extra(1, more: true, 1000, 1), Self.extra(1, 1000, 1)]
            case .repeatedGroup: [Self.data(.extraInfo), Self.extra(2, more: true, 1, 0), Self.extra(3, 1, 0)]
            case .segmentOfNothing: [Self.data(.extraInfo), Self.extra(1, 0, 1)]
            case .unknownSegmentation: [Self.data(.extraInfo), Self.extra(1, 1000, 3)]
            case .firstBeyondPage: [Self.data([], offset: 4000, size: 97)]
            case .otherBeyondPage: [Self.data(.moreData, size: 200), Self.data([], offset: 4095, size: 2)]
            }
        }

        private static func data(
            _ flags: TransmitFlags, offset: UInt16 = 0, size: UInt16 = 60
        ) -> netif_tx_request_wire {
            netif_tx_request_wire(gref: 0, offset: offset, flags: flags.rawValue, id: 0, size: size)
        }

        /// Kind, flag, and the first three bytes of eight behind them.
        private static func extra(
            _ kind: UInt32, more: Bool = false, _ size: UInt16, _ segmentation: UInt16
        ) -> netif_tx_request_wire {
            let word = kind | (more ? 1 << 8 : 0) | UInt32(size) << 16
            return netif_tx_request_wire(gref: word, offset: segmentation, flags: 0, id: 0, size: 0)
        }

        func perform(on front: NetFrontQueue) {
            for slot in slots { front.put(slot, nil) }
            front.publish()
            switch self {
            case .transmitOverrun: front.claim(0x8000_0000, ofTransmit: true)
            // Something was sent before.
            case .transmitTakenBack: front.claim(0, ofTransmit: true)
            // 256 buffers were put up and some of them used and put up again.
            case .receiveOverrun: front.claim(0x4000_0000, ofTransmit: false)
            default: return
            }
            front.transmitPort.channel.notify()
        }
    }

    @Test func `there is an attack on every rule`() {
        #expect(Set(Attack.allCases.map(\.violation)) == Set(NetViolation.allCases))
    }

    @Test(arguments: Attack.allCases)
    func `a broken rule is named, closes its interface only, and the guest may come back`(_ attack: Attack) throws {
        let host = try Host()
        let other = try host.connect(1)
        let front = try host.connect()
        #expect(try host.passes(front))
        #expect(try host.hasCarrier())
        attack.perform(on: front)
        #expect(try host.waits(5))
        #expect(try host.read("error") == "queue 0: the frontend broke a rule: \(attack.violation)")
        #expect(try host.read("carrier") == "0")
        #expect(try host.read("hotplug-status") == "connected", "it is the guest's fault, not the host's")
        #expect(try host.hasNoCarrier())
        #expect(try host.passes(other, 1))
        #expect(host.daemon.ended == nil)
        let second = try host.reconnect()
        #expect(try host.hasCarrier())
        #expect(try host.passes(second))
        #expect(try host.passes(other, 1))
        host.daemon.kill()
    }

    // MARK: lies

    @Test(arguments: [
        ("tx-ring-ref", "4000"), ("tx-ring-ref", "4294967295"), ("rx-ring-ref", "4000"),
        ("rx-ring-ref", "4294967295"), ("event-channel-tx", "131071"), ("event-channel-tx", "4000"),
        ("event-channel-rx", "131071"), ("event-channel-rx", "4000"), ("ctrl-ring-ref", "4000"),
        ("ctrl-ring-ref", "4294967295"), ("event-channel-ctrl", "131071"), ("event-channel-ctrl", "4000"),
    ])
    func `a frontend that lies while it connects gets an error and may try again`(
        _ key: String, _ value: String
    ) throws {
        let host = try Host()
        let other = try host.connect(1)
        let control = try NetFrontControl(host.world.base.guest, backend: DomainID(0))
        let truth = ["ctrl-ring-ref": "\(control.reference)", "event-channel-ctrl": "\(control.port.number)"]
        let liar = try host.world.connect(0, truth.merging([key: value]) { $1 })
        defer { withExtendedLifetime(liar) {} }
        #expect(try host.waits(5))
        let error = try #require(try host.read("error"))
        #expect(error.contains(" \(value) of domain 5"), "\(error)")
        #expect(error.hasPrefix(key.hasPrefix("event") ? "bind to event channel" : "map grants"), "\(error)")
        #expect(try host.passes(other, 1))
        // Else the guest could never try again: the daemon would wait for a script that has ended long ago.
        try #require(try host.read("hotplug-status") != "error", "it is the guest's fault, not the host's")
        let front = try host.reconnect(truth)
        #expect(try host.passes(front))
        #expect(try host.passes(other, 1))
        #expect(host.daemon.ended == nil)
        host.daemon.kill()
    }

    // MARK: guests that never sit still

    /// Sends events without end, until it is told to stop.
    private final class Storm: Sendable {
        private let isOver = Atomic<Bool>(false)
        private let sent = Atomic<Int>(0)
        /// Far more than a test lasts, but not without end if it hangs.
        private static let limit = 100_000_000

        var count: Int { sent.load(ordering: .relaxed) }
        func stop() { isOver.store(true, ordering: .relaxed) }

        func rage(on ports: [GuestPort]) {
            Thread.detachNewThread {
                while !self.isOver.load(ordering: .relaxed), self.count < Self.limit {
                    for port in ports { port.channel.notify() }
                    self.sent.add(ports.count, ordering: .relaxed)
                }
            }
        }
    }

    /// XSA-332.
    @Test func `a storm of events keeps nobody else waiting, and who raised it is served afterwards`() throws {
        let host = try Host()
        let other = try host.connect(1)
        let front = try host.connect()
        let storm = Storm()
        storm.rage(on: [front.transmitPort, front.receivePort])
        #expect(try host.world.base.eventually { storm.count > 10_000 })
        for round in 0..<50 { #expect(try host.passes(other, 1), "\(round)") }
        #expect(try host.passes(front), "though late")
        storm.stop()
        #expect(try host.passes(front))
        #expect(try host.read("state") == "4")
        #expect(host.daemon.ended == nil)
        host.daemon.kill()
    }

    /// XSA-349. What it says is always allowed, though not in this order.
    @Test func `a frontend that rewrites its wishes and its state without end keeps nobody else waiting`() throws {
        let host = try Host()
        let other = try host.connect(1)
        let front = try host.connect()
        let guest = try host.world.base.client(0)
        for round in 0..<1000 {
            try guest.write(XenstorePath(NetWorld.front("request-multicast-control")), "\(round % 2)")
            try guest.write(XenstorePath(NetWorld.front("xdp-headroom")), "\(round % 4083)")
            try guest.write(XenstorePath(NetWorld.front("state")), "\([7, 4, 3][round % 3])")
            if round % 100 == 0 { #expect(try host.passes(other, 1), "\(round)") }
        }
        try guest.write(XenstorePath(NetWorld.front("xdp-headroom")), "0")
        try host.setState(7)
        #expect(try host.waits(8))
        try host.setState(4)
        #expect(try host.waits(4))
        #expect(try host.read("error") == nil)
        #expect(try host.passes(other, 1))
        // Frames that came meanwhile have the headroom of their time, which this frontend is not told.
        withExtendedLifetime(front) {}
        #expect(try host.passes(host.reconnectAfterClosing()))
        host.daemon.kill()
    }

    @Test func `a frontend that writes nonsense without end gets an error, and keeps nobody else waiting`() throws {
        let host = try Host()
        let other = try host.connect(1)
        let front = try host.connect()
        let guest = try host.world.base.client(0)
        for round in 0..<1000 {
            try guest.write(XenstorePath(NetWorld.front("request-multicast-control")), "perhaps \(round)")
            try guest.write(XenstorePath(NetWorld.front("xdp-headroom")), "-\(round)")
            try guest.write(XenstorePath(NetWorld.front("state")), "\([7, 4, 9, 3, 8, 0][round % 6])")
            if round % 100 == 0 { #expect(try host.passes(other, 1), "\(round)") }
        }
        withExtendedLifetime(front) {}
        // The error of a connection goes with the next one: this one fails where it can be seen.
        try host.startAgain()
        let second = try host.world.connect()
        #expect(try host.waits(5))
        #expect(try host.read("error") == "request-multicast-control 'perhaps 999': must be 0 or 1")
        #expect(try host.passes(other, 1))
        withExtendedLifetime(second) {}
        try host.world.base.write([
            NetWorld.front("request-multicast-control"): "0", NetWorld.front("xdp-headroom"): "0",
        ])
        #expect(try host.passes(host.reconnect()))
        #expect(try host.passes(other, 1))
        #expect(host.daemon.ended == nil)
        host.daemon.kill()
    }

    // MARK: interfaces that cannot be

    @Test func `an address that another guest has is refused, and both are named`() throws {
        let world = try NetWorld(pages: 4096)
        let daemon = try world.startDaemon(["--attach", "routed"])
        _ = try world.inNamespace("ip link set lo up && ip addr add 10.9.0.1/32 dev lo")
        try world.createInterface([NetWorld.back("ip"): "10.9.0.2"])
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        try world.createInterface([NetWorld.back("ip", 1): "10.9.0.2"], 1)
        let thief = try world.connect(1)
        defer { withExtendedLifetime(thief) {} }
        #expect(try world.base.wait(NetWorld.back("state", 1), "5"))
        let reason = "vif-5-1 cannot have address 10.9.0.2: vif-5-0 has it"
        #expect(try world.base.read(NetWorld.back("hotplug-error", 1)) == reason)
        #expect(try world.base.read(NetWorld.back("hotplug-status", 1)) == "error")
        #expect(try world.base.read(NetWorld.back("error", 1)) == reason)

        let routes = try world.inNamespace("ip route")
        #expect(routes.contains("10.9.0.2 dev vif5.0 ") && !routes.contains("vif5.1"))
        #expect(try !world.inNamespace("ip -o link show vif5.1").contains("UP"))
        #expect(try world.inNamespace("cat /proc/sys/net/ipv4/conf/vif5.1/proxy_arp") == "0\n")
        let ledger = try String(contentsOfFile: world.base.directory + "/state/attachments", encoding: .utf8)
        #expect(ledger.contains("vif-5-0") && !ledger.contains("vif-5-1"))
        let host = try #require(try world.resolve(front))
        #expect(try world.ping(front, host, payload: 1400) != nil)

        // As docs/network-attachment.md says: without the node it is tried again.
        try world.base.write([NetWorld.back("ip", 1): "10.9.1.2", NetWorld.front("state", 1): "6"])
        try world.base.remove(NetWorld.back("hotplug-status", 1))
        #expect(try world.base.wait(NetWorld.back("state", 1), "6"))
        try world.base.write([NetWorld.front("state", 1): "1"])
        #expect(try world.base.wait(NetWorld.back("state", 1), "2"))
        let honest = try world.connect(1)
        defer { withExtendedLifetime(honest) {} }
        #expect(try world.base.wait(NetWorld.back("state", 1), "4"))
        #expect(try world.inNamespace("ip route").contains("10.9.1.2 dev vif5.1 "))
        #expect(try world.ping(front, host, payload: 1400) != nil)
        #expect(daemon.ended == nil)
        daemon.kill()
    }

    @Test(arguments: [
        "ip link add vif5.0 type bridge", "ip tuntap add dev vif5.0 mode tap", "ip tuntap add dev vif5.0 mode tun",
    ])
    func `an interface of somebody else's whose name is taken stays as it is`(_ making: String) throws {
        let world = try NetWorld(pages: 4096)
        _ = try world.inNamespace(
            "\(making) && ip addr add 10.9.7.1/24 dev vif5.0 && ip link set vif5.0 mtu 1400")
        let before = try world.inNamespace("ip address show vif5.0")
        let daemon = try world.startDaemon()
        try world.createInterface()
        try world.createInterface(1)
        let reason = "make TAP device vif5.0, which is another interface's name: Invalid argument"
        #expect(try world.base.wait(NetWorld.back("hotplug-error"), reason))
        try world.plugIn()
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        #expect(try world.base.wait(NetWorld.back("error"), reason))
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        #expect(try world.inNamespace("ip address show vif5.0") == before)

        try world.base.write([NetWorld.back("online"): "0", NetWorld.front("state"): "6"])
        #expect(try world.base.wait(NetWorld.back("state"), "6"))
        try world.base.remove(NetWorld.back(""))
        try world.plugIn(1)
        let other = try world.connect(1)
        defer { withExtendedLifetime(other) {} }
        #expect(try world.base.wait(NetWorld.back("state", 1), "4"))
        #expect(try world.inNamespace("ip address show vif5.0") == before)
        daemon.kill()
    }
}
