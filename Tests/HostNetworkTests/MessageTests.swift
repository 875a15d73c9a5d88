import CLinux
import NetFrames
import Testing

@testable import HostNetwork

struct MessageTests {
    @Test func `an attribute has its length, its number, its value and padding`() {
        #expect(NetlinkAttribute(3, "br").bytes == [7, 0, 3, 0, 0x62, 0x72, 0, 0])
        #expect(NetlinkAttribute(4, 0x0102_0304).bytes == [8, 0, 4, 0, 4, 3, 2, 1])
        #expect(NetlinkAttribute(4, bigEndian: 0x0102_0304).bytes == [8, 0, 4, 0, 1, 2, 3, 4])
        #expect(NetlinkAttribute(5, [NetlinkAttribute(6, [9])]).bytes == [12, 0, 5, 0x80, 5, 0, 6, 0, 9, 0, 0, 0])
    }

    @Test func `a request has its length, type, flags and number`() {
        let message = NetlinkMessage(0x10, flags: 0x400, [1, 2, 3, 4])
        #expect(message.bytes(4, sequence: 7) == [20, 0, 0, 0, 0x10, 0, 5, 4, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])
    }

    /// The bytes that `ip route add 10.9.0.2/32 dev <2>` sends, but for who made the route.
    @Test func `a host route is scoped to the link`() throws {
        let message = RouteMessages.route(try #require(AddressRange("10.9.0.2")), through: 2)
        #expect(message.type == 24 && message.flags == 0x601)
        #expect(
            message.payload == [2, 32, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0]
                + [8, 0, 1, 0, 10, 9, 0, 2] + [8, 0, 4, 0, 2, 0, 0, 0])
    }

    @Test func `an interface is read back from the message that describes it`() throws {
        let kind = NetlinkAttribute(IFLA_LINKINFO, [NetlinkAttribute(IFLA_INFO_KIND, "bridge")])
        let message = NetlinkMessage(
            linux_rtm_new_link, [0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [NetlinkAttribute(IFLA_IFNAME, "xenbr0"), NetlinkAttribute(IFLA_MTU, 1500), kind])
        let reply = try #require(NetlinkReply.all(in: message.bytes(sequence: 1)).first)
        let link = HostState.Link(index: 7, name: "xenbr0", kind: "bridge", master: 0, mtu: 1500)
        #expect(HostState.Link(reply) == link)
    }

    @Test func `a route through several interfaces is there for each`() throws {
        let hops: [UInt8] = [8, 0, 0, 0, 3, 0, 0, 0] + [8, 0, 0, 0, 4, 0, 0, 0]
        let message = NetlinkMessage(
            linux_rtm_new_route, [2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0],
            [NetlinkAttribute(RTA_TABLE.rawValue, 254), NetlinkAttribute(RTA_MULTIPATH.rawValue, hops)])
        let reply = try #require(NetlinkReply.all(in: message.bytes(sequence: 1)).first)
        #expect(HostState.Place.routes(reply).map(\.index) == [3, 4])
        #expect(HostState.Place.routes(reply).allSatisfy { $0.range.length == 0 && $0.range.isV4 })
    }

    @Test func `lengths are believed only as far as there are bytes`() {
        let message = NetlinkMessage(
            linux_rtm_new_link, [UInt8](repeating: 0, count: 16), [NetlinkAttribute(IFLA_IFNAME, "xenbr0")])
        let whole = message.bytes(sequence: 1)
        for count in 0..<whole.count { #expect(NetlinkReply.all(in: Array(whole.prefix(count))).isEmpty) }
        for index in whole.indices {
            for value: UInt8 in [0, 1, 3, 0x7F, 0xFF] {
                var damaged = whole
                damaged[index] = value
                for reply in NetlinkReply.all(in: damaged) { _ = HostState.Link(reply) }
            }
        }
        // An attribute that is longer than the message, one that is shorter than itself.
        #expect(NetlinkAttributes([9, 0, 3, 0, 1, 2, 3, 4][...]).bytes(3) == nil)
        #expect(NetlinkAttributes([3, 0, 3, 0, 1, 2, 3, 4][...]).bytes(3) == nil)
    }

    @Test(arguments: [(0, 0), (-17, 17), (1, EPROTO), (Int32.min, EPROTO)] as [(Int32, Int32)])
    func `an answer is an acknowledgement or an errno`(code: Int32, expected: Int32) throws {
        let message = NetlinkMessage(2, NetlinkBytes.of(code) + [UInt8](repeating: 0, count: 16))
        #expect(try #require(NetlinkReply.all(in: message.bytes(sequence: 1)).first).errorCode == expected)
    }
}

struct LedgerTests {
    static let ledger = Ledger(
        entries: [
            .init(
                device: "vif-5-0", index: 12, interface: "vif5.0", request: "bridge=xenbr0,create;",
                changes: [
                    .bridge("xenbr0"), .mtu(before: 1500, after: 9000), .port(bridge: "xenbr0", isIsolated: true),
                ]
            ),
            .init(
                device: "vif-6-1", index: 13, interface: "vif6.1", request: "routed;eth0;10.9.0.2;fd00::/64",
                changes: [
                    .setting(Setting(family: .ipv6, interface: "eth0.5", name: "proxy_ndp", before: "0")), .up,
                ]
                    + ["10.9.0.2", "fd00::/64", "2001:db8::1:0:0:1"].compactMap { AddressRange($0) }.flatMap {
                        [.route($0), .address($0), .translation($0), .proxy($0, on: "eth0")]
                    }),
        ])

    @Test func `a ledger is read as it was written`() {
        #expect(Ledger(Self.ledger.description) == Self.ledger)
    }

    @Test func `what is not understood is left out`() {
        let text = Self.ledger.description
        #expect(Ledger(" up\nfuture 1 2\n" + text + " future change\n setting ipv9 a b c\n route x\n") == Self.ledger)
        for count in 0..<text.utf8.count { _ = Ledger(String(text.prefix(count))) }
    }

    @Test(arguments: [
        "bridge=xenbr0", "bridge=xenbr0,create", "bridge=xenbr0,create,isolated", "routed", "nat=10.88.0.0/24",
    ])
    func `a mode is written as it is read`(text: String) { #expect(AttachmentMode(text)?.description == text) }

    @Test(arguments: [
        "", "none", "bridge", "bridge=", "bridge=a b", "bridge=a/b", "bridge=sixteen-letters0", "bridge=a,",
        "bridge=a,x",
        "routed=", "routed=x", "nat", "nat=", "nat=10.0.0.0/31", "nat=fd00::/64", "nat=10.0.0.0/0", "nat=x",
    ])
    func `nothing else is a mode`(text: String) { #expect(AttachmentMode(text) == nil) }
}

struct PlanTests {
    private static let tap = HostState.Link(index: 9, name: "vif5.0", kind: "tun", master: 0, mtu: 1500)
    private static let uplink = HostState.Link(index: 2, name: "eth0", kind: nil, master: 0, mtu: 1500)

    private func range(_ text: String) throws -> AddressRange { try #require(AddressRange(text)) }

    private func plan(
        _ mode: String, _ addresses: [String], _ ledger: Ledger = Ledger(), uplink: String? = nil,
        settings: [String: String] = [:], _ more: (inout HostState) throws -> Void = { _ in }
    ) throws -> [Change] {
        var host = HostState(
            links: [Self.tap, Self.uplink], addresses: [.init(range: try range("192.0.2.1/24"), index: 2)],
            routes: [.init(range: try range("0.0.0.0/0"), index: 2)])
        try more(&host)
        let request = AttachmentRequest(
            try #require(AttachmentMode(mode)), addresses: try addresses.map(range), uplink: uplink)
        return try AttachmentPlan(
            device: "vif-5-0", interface: Self.tap, request: request, host: host, ledger: ledger,
            setting: { settings[$0] }
        ).changes()
    }

    @Test func `a bridge that is missing is named, unless it may be made`() throws {
        #expect(throws: AttachmentError.missingBridge("xenbr9")) { try plan("bridge=xenbr9", []) }
        #expect("\(AttachmentError.missingBridge("xenbr9"))" == "bridge xenbr9 does not exist")
        #expect(throws: AttachmentError.noBridge("eth0")) { try plan("bridge=eth0,create", []) }
        #expect(
            try plan("bridge=xenbr9,create", [])
                == [.bridge("xenbr9"), .port(bridge: "xenbr9", isIsolated: false), .up])
    }

    @Test func `a port takes the MTU of its bridge, and holds a bridge of ours`() throws {
        let bridge = HostState.Link(index: 3, name: "xenbr0", kind: "bridge", master: 0, mtu: 9000)
        let changes = try plan("bridge=xenbr0", [], LedgerTests.ledger) { $0.links.append(bridge) }
        #expect(
            changes == [
                .bridge("xenbr0"), .mtu(before: 1500, after: 9000), .port(bridge: "xenbr0", isIsolated: false), .up,
            ])
    }

    @Test(arguments: ["10.9.0.2", "10.9.0.0/24", "fd00::7"])
    func `an address that another guest has is refused, and both are named`(text: String) throws {
        let error = AttachmentError.addressTaken(try range(text), by: "vif-6-1", wantedBy: "vif-5-0")
        #expect(throws: error) { try plan("routed", [text], LedgerTests.ledger) }
        #expect("\(error)" == "vif-5-0 cannot have address \(text): vif-6-1 has it")
    }

    @Test func `an address of the host's own, or behind another interface, is refused`() throws {
        #expect(throws: AttachmentError.addressTaken(try range("192.0.2.1"), by: "eth0", wantedBy: "vif-5-0")) {
            try plan("routed", ["192.0.2.1"])
        }
        #expect(throws: AttachmentError.addressTaken(try range("192.0.2.9"), by: "eth0", wantedBy: "vif-5-0")) {
            try plan("routed", ["192.0.2.9"]) { $0.routes.append(.init(range: try range("192.0.2.9"), index: 2)) }
        }
    }

    @Test func `what another attachment has switched on is held together with it`() throws {
        let shared = Setting(family: .ipv4, interface: "eth0", name: "forwarding", before: "0")
        let other = Ledger(
            entries: [.init(device: "vif-6-0", index: 8, interface: "vif6.0", request: "", changes: [.setting(shared)])]
        )
        let on = [shared.path: "1"]
        #expect(try plan("routed", ["10.9.0.2"], other, settings: on).contains(.setting(shared)))
        // Without it, it is the host's own.
        #expect(try !plan("routed", ["10.9.0.2"], settings: on).contains(.setting(shared)))
        #expect(try plan("routed", ["10.9.0.2"], settings: [shared.path: "0"]).contains(.setting(shared)))
    }

    @Test func `the host answers for a guest where it seems to be a neighbour`() throws {
        #expect(try plan("routed", ["192.0.2.9"]).contains(.proxy(try range("192.0.2.9"), on: "eth0")))
        #expect(try !plan("routed", ["10.9.0.2"]).contains(.proxy(try range("10.9.0.2"), on: "eth0")))
        #expect(throws: AttachmentError.missingUplink("eth7")) { try plan("routed", ["10.9.0.2"], uplink: "eth7") }
    }

    @Test func `IPv6 that the kernel cannot forward is refused`() throws {
        let all = Setting.path(.ipv6, "all", "forwarding")
        let forced = Setting(family: .ipv6, interface: "vif5.0", name: "force_forwarding", before: "0")
        #expect(throws: AttachmentError.noForwarding) { try plan("routed", ["fd00::2"], settings: [all: "0"]) }
        #expect(
            try plan("routed", ["fd00::2"], settings: [all: "0", forced.path: "0"]).contains(.setting(forced)))
        #expect(try plan("routed", ["fd00::2"], settings: [all: "1"]) == [.up, .route(try range("fd00::2"))])
    }

    @Test(arguments: ["10.88.1.2", "10.88.0.1", "10.88.0.0", "fd00::2"])
    func `only an address of the network can be behind the host's`(text: String) throws {
        let mode = try #require(AttachmentMode("nat=10.88.0.0/24"))
        #expect(throws: AttachmentError.addressUnfit(try range(text), mode)) { try plan("nat=10.88.0.0/24", [text]) }
        #expect(throws: AttachmentError.addressMissing(mode)) { try plan("nat=10.88.0.0/24", []) }
    }

    @Test func `a guest behind the host's address has its gateway on the interface`() throws {
        #expect(
            try plan("nat=10.88.0.0/24", ["10.88.0.2/24"])
                == [
                    .up, .address(try range("10.88.0.1")), .route(try range("10.88.0.2")),
                    .translation(try range("10.88.0.2")),
                ])
    }
}
