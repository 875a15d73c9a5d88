import NetFrames
import Testing
import XenWire
import Xenbus
import Xenstore

@testable import NetBackend

@Suite struct NetConnectionTests {
    static let plain = [
        "tx-ring-ref": "8", "rx-ring-ref": "9", "event-channel": "3", "request-rx-copy": "1", "feature-rx-notify": "1",
        "feature-sg": "1", "feature-gso-tcpv4": "1", "feature-gso-tcpv6": "1", "feature-ipv6-csum-offload": "1",
    ]

    static func nodes(_ changes: [String: String?]) -> NodeValues {
        var texts: [String: String] = plain
        for (key, value) in changes { texts[key] = value }
        return texts.mapValues { XenstoreValue(Array($0.utf8)) }
    }

    static func negotiate(
        _ changes: [String: String?], _ offer: NetOffer = NetOffer()
    ) throws(KeyRefusal) -> NetConnection {
        try NetConnection.negotiate(nodes(changes), offer)
    }

    static func refused(_ changes: [String: String?]) -> String? {
        do throws(KeyRefusal) {
            _ = try negotiate(changes)
            return nil
        } catch {
            return error.key
        }
    }

    @Test func linuxWithOneQueue() throws {
        let connection = try Self.negotiate([:])
        #expect(connection.queues.count == 1 && !connection.queues[0].isSplit)
        #expect(connection.queues[0].transmit == GrantReference(8) && connection.queues[0].receive == GrantReference(9))
        #expect(connection.offloads == .all && connection.scatters && connection.notifiesReceive)
    }

    @Test func eventChannelsAreSplitWhereBothAreThere() throws {
        let split = try Self.negotiate(["event-channel": nil, "event-channel-tx": "4", "event-channel-rx": "5"])
        #expect(split.queues[0].isSplit)
        #expect(Self.refused(["event-channel": nil, "event-channel-tx": "4"]) == "event-channel-rx")
        // Half of a pair beside a channel for both.
        let half = try Self.negotiate(["event-channel-tx": "4"])
        #expect(!half.queues[0].isSplit && half.queues[0].transmitPort.rawValue != 4)
        #expect(Self.refused(["event-channel": nil]) == "event-channel")
    }

    @Test func severalQueuesHaveDirectories() throws {
        var changes: [String: String?] = [
            "multi-queue-num-queues": "2", "tx-ring-ref": nil, "rx-ring-ref": nil, "event-channel": nil,
        ]
        for queue in 0..<2 {
            changes["queue-\(queue)/tx-ring-ref"] = "\(10 + queue)"
            changes["queue-\(queue)/rx-ring-ref"] = "\(20 + queue)"
            changes["queue-\(queue)/event-channel-tx"] = "\(30 + queue)"
            changes["queue-\(queue)/event-channel-rx"] = "\(40 + queue)"
        }
        #expect(try Self.negotiate(changes).queues.map(\.transmit) == [GrantReference(10), GrantReference(11)])
        let names = NetConnection.ringKeys(after: Self.nodes(changes), NetOffer())
        #expect(names.count == 10 && names.contains("queue-1/event-channel-rx"))
        #expect(NetConnection.ringKeys(after: Self.nodes(["multi-queue-num-queues": "9"]), NetOffer()).isEmpty)
        changes["queue-1/rx-ring-ref"] = "20"
        #expect(Self.refused(changes) == "multi-queue-num-queues", "one page, two rings")
        changes["queue-1/rx-ring-ref"] = String?.none
        #expect(Self.refused(changes) == "queue-1/rx-ring-ref")
    }

    @Test(
        arguments: [
            ("request-rx-copy", nil), ("request-rx-copy", "0"), ("request-rx-copy", "yes"),
            ("multi-queue-num-queues", "0"),
            ("multi-queue-num-queues", "9"), ("multi-queue-num-queues", "-1"), ("tx-ring-ref", nil),
            ("tx-ring-ref", "4294967296"), ("rx-ring-ref", ""), ("rx-ring-ref", "x"), ("event-channel", "0"),
            ("event-channel", "131072"), ("feature-sg", "2"), ("feature-gso-tcpv4", "01"), ("feature-gso-tcpv6", "on"),
            ("feature-no-csum-offload", " 1"), ("feature-ipv6-csum-offload", "1\0"), ("feature-rx-notify", "true"),
        ] as [(String, String?)])
    func everyKeyHasARule(key: String, value: String?) {
        #expect(Self.refused([key: value]) == key)
    }

    @Test func theSameRingTwiceIsRefused() {
        #expect(Self.refused(["rx-ring-ref": "8"]) == "multi-queue-num-queues")
    }

    @Test func weakFrontendsGetWhatTheyTake() throws {
        let bsd = try Self.negotiate(["feature-no-csum-offload": "1", "feature-ipv6-csum-offload": nil])
        #expect(bsd.offloads == .none)
        let plain = try Self.negotiate(["feature-sg": nil])
        #expect(!plain.scatters && plain.offloads.checksumV4 && !plain.offloads.segmentationV4)
        let old = try Self.negotiate(["feature-gso-tcpv6": nil, "feature-ipv6-csum-offload": nil])
        #expect(old.offloads.segmentationV4 && !old.offloads.segmentationV6 && !old.offloads.checksumV6)
    }

    @Test func `a control ring needs its channel, and pages and channels of its own`() throws {
        #expect(try Self.negotiate([:]).control == nil)
        #expect(try Self.negotiate(["event-channel-ctrl": "7"]).control == nil)
        let control = try Self.negotiate(["ctrl-ring-ref": "12", "event-channel-ctrl": "7"]).control
        #expect(control == NetConnection.Control(ring: GrantReference(12), port: EventPort(7)))
        #expect(Self.refused(["ctrl-ring-ref": "12"]) == "event-channel-ctrl")
        for (ring, channel) in [("8", "7"), ("9", "7"), ("12", "3")] {
            #expect(
                Self.refused(["ctrl-ring-ref": ring, "event-channel-ctrl": channel]) == "multi-queue-num-queues")
        }
    }

    @Test(arguments: ["", "x", "-1", "4294967296", "12 ", "0x12"])
    func `a control ring's reference has a rule`(_ value: String) {
        #expect(Self.refused(["ctrl-ring-ref": value, "event-channel-ctrl": "7"]) == "ctrl-ring-ref")
    }

    @Test(arguments: ["", "0", "x", "131072", "-7"])
    func `a control ring's channel has a rule`(_ value: String) {
        #expect(Self.refused(["ctrl-ring-ref": "12", "event-channel-ctrl": value]) == "event-channel-ctrl")
    }

    private static func live(_ texts: [String: String]) throws(KeyRefusal) -> LiveSettings {
        try LiveSettings(texts.mapValues { XenstoreValue(Array($0.utf8)) })
    }

    @Test func `what is not said is not wanted`() throws {
        let nothing = try Self.live([:])
        #expect(!nothing.filtersMulticast && nothing.headroom == 0)
        let all = try Self.live(["request-multicast-control": "1", "xdp-headroom": "4082"])
        #expect(all.filtersMulticast && all.headroom == 4082)
        // More than a page has: as xen-netback does, as much as there is.
        #expect(try Self.live(["xdp-headroom": "4083"]).headroom == 4082)
        #expect(try Self.live(["xdp-headroom": "4294967295"]).headroom == 4082)
        #expect(Set(LiveSettings.keys).isDisjoint(with: NetConnection.fixedKeys), "no new connection for them")
    }

    @Test(arguments: [
        ("request-multicast-control", "2"), ("request-multicast-control", ""), ("request-multicast-control", "yes"),
        ("request-multicast-control", "01"), ("xdp-headroom", "4294967296"), ("xdp-headroom", "-1"),
        ("xdp-headroom", ""), ("xdp-headroom", "256 "),
        ("xdp-headroom", "18446744073709551616"),
    ])
    func `live keys have rules`(_ key: String, _ value: String) {
        do throws(KeyRefusal) {
            _ = try Self.live([key: value])
            Issue.record("\(key) \(value) was taken")
        } catch {
            #expect(error.key == key)
        }
    }

    /// Windows reads flags in base 2.
    @Test func whatIsOfferedIsWrittenPlainly() {
        let keys = NetOffer(queues: 99, splitsEvents: true).transportKeys
        #expect(keys.filter { $0.name.hasPrefix("feature") }.allSatisfy { ["0", "1"].contains($0.value) })
        #expect(keys.contains(PublishedKey("multi-queue-max-queues", 8)))
        for name in ["multicast-control", "dynamic-multicast-control", "xdp-headroom", "ctrl-ring"] {
            #expect(keys.contains(PublishedKey("feature-\(name)", 1)))
        }
    }

    // MARK: settings

    private static func settings(_ texts: [String: String], filters: Bool = true) throws(KeyRefusal)
        -> InterfaceSettings
    {
        try InterfaceSettings(texts.mapValues { XenstoreValue(Array($0.utf8)) }, filters: filters)
    }

    @Test func filtersFollowTheirKeys() throws {
        let mac = "00:16:3e:00:00:05"
        let expected = SourceFilter(
            mac: MACAddress(mac), addresses: ["10.0.0.1", "fd00::/64"].compactMap { AddressRange($0) })
        #expect(try Self.settings(["mac": mac, "ip": "10.0.0.1 fd00::/64"]).filter == expected)
        #expect(try Self.settings(["mac": mac, "filter": "0"]).filter == nil)
        #expect(try Self.settings(["mac": mac], filters: false).filter == nil)
        #expect(try Self.settings(["mac": mac, "filter": "1"], filters: false).filter != nil)
        #expect(try Self.settings([:]).filter == SourceFilter(mac: nil, addresses: []))
    }

    @Test func rateAndMTUFollowTheirKeys() throws {
        #expect(try Self.settings([:]).rate == nil && Self.settings([:]).mtu == nil)
        #expect(
            try Self.settings(["rate": "62500,50000"]).rate == TransferRate(bytes: 62_500, microseconds: 50_000))
        #expect(try Self.settings(["mtu": "68"]).mtu == 68 && Self.settings(["mtu": "65517"]).mtu == 65_517)
    }

    @Test(arguments: [
        ("filter", "2"), ("mac", ""), ("mac", "00:16:3e"), ("mac", "01:00:5e:00:00:01"), ("ip", "10.0.0.1,10.0.0.2"),
        ("rate", ""), ("rate", "1000"), ("rate", "0,50000"), ("rate", "1000,0"), ("rate", "1000,50000,"),
        ("rate", "-1,50000"), ("rate", "1000, 50000"), ("rate", "1e6,50000"), ("rate", "1000,4294967296"),
        ("rate", "18446744073709551616,1"), ("mtu", "67"), ("mtu", "65518"), ("mtu", "x"), ("mtu", ""),
        ("ip", "10.0.0"), ("ip", "eth0"), ("ip", Array(repeating: "10.0.0.1", count: 65).joined(separator: " ")),
    ])
    func badSettingsAreNamed(key: String, value: String) {
        do throws(KeyRefusal) {
            _ = try Self.settings([key: value])
            Issue.record("\(key) \(value) was taken")
        } catch {
            #expect(error.key == key)
        }
    }
}
