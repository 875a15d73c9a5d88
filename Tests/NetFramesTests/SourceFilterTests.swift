import Testing
import XenWire

@testable import NetFrames

@Suite struct SourceFilterTests {
    /// What `Frame` sends from.
    static let mac = MACAddress(2, 0, 0, 0, 0, 2)
    static let v6 = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"

    static func judge(_ bytes: [UInt8], mac: MACAddress? = mac, _ addresses: [String] = []) -> FilterReason? {
        let filter = SourceFilter(mac: mac, addresses: addresses.compactMap { AddressRange($0) })
        return unsafe bytes.withUnsafeBytes { unsafe filter.judge($0.baseAddress.unsafelyUnwrapped, count: $0.count) }
    }

    static func arp(sender: [UInt8], mac: [UInt8] = [2, 0, 0, 0, 0, 2]) -> [UInt8] {
        [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + mac + sender
            + [0, 0, 0, 0, 0, 0, 10, 0, 0, 9]
    }

    /// An IPv6 packet with an ICMPv6 message of `type` about `target`.
    static func icmp(_ type: UInt8, source: [UInt8], target: [UInt8] = []) -> [UInt8] {
        let message: [UInt8] = [type, 0, 0, 0, 0, 0, 0, 0] + target
        return [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xDD, 0x60, 0, 0, 0]
            + Frame.word(UInt16(message.count)) + [58, 255] + source + Array(repeating: 0xFF, count: 16) + message
    }

    static let own: [UInt8] = Array(repeating: 0xFD, count: 16)
    static let other: [UInt8] = [0x20, 1] + Array(repeating: 9, count: 14)
    static let local: [UInt8] = [0xFE, 0x80] + Array(repeating: 0, count: 13) + [1]

    // MARK: addresses

    @Test(
        arguments: [
            ("10.0.0.1", [10, 0, 0, 1], 32), ("10.0.0.0/8", [10, 0, 0, 0], 8), ("0.0.0.0/0", [0, 0, 0, 0], 0),
            ("::", Array(repeating: 0, count: 16), 128), ("::1", Array(repeating: 0, count: 15) + [1], 128),
            ("2001:db8::/32", [0x20, 1, 0xD, 0xB8] + Array(repeating: 0, count: 12), 32),
            ("1:2:3:4:5:6:7:8", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8], 128),
        ] as [(String, [UInt8], Int)])
    func addressesAreRead(text: String, bytes: [UInt8], length: Int) throws {
        let range = try #require(AddressRange(text))
        #expect(range.bytes == bytes && range.length == length)
    }

    @Test(arguments: [
        "", "10.0.0", "10.0.0.256", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/x", "10.0.0.-1", "10.0.0.1 ", "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9", "1::2::3", "::12345", ":::", "g::", "::1/129", "1:2:3:4:5:6:7:8::", "fe80::1%eth0", "::+1",
    ])
    func nothingElseIsAnAddress(text: String) { #expect(AddressRange(text) == nil) }

    @Test func rangesEndWithinAByte() throws {
        let range = try #require(AddressRange("192.168.64.0/18"))
        for (address, isIn) in [
            ([192, 168, 127, 255], true), ([192, 168, 128, 0], false), ([192, 169, 64, 0], false),
        ]
            as [([UInt8], Bool)]
        {
            #expect(unsafe address.withUnsafeBytes { unsafe range.contains($0.baseAddress.unsafelyUnwrapped) } == isIn)
        }
    }

    // MARK: frames

    @Test func theGuestsOwnFramesLeave() {
        for (ip, kind) in TranslationTests.kinds {
            let frame = Frame(ip, kind, payload: [1, 2, 3])
            #expect(Self.judge(frame.bytes) == nil)
            #expect(Self.judge(frame.bytes, ["192.168.7.1", Self.v6]) == nil)
            #expect(Self.judge(frame.bytes, ["192.168.0.0/16", "fdfd::/16"]) == nil)
        }
        #expect(Self.judge(Self.arp(sender: [10, 0, 0, 2]), ["10.0.0.2"]) == nil)
        #expect(Self.judge(Self.arp(sender: [0, 0, 0, 0]), ["10.0.0.2"]) == nil, "a probe")
    }

    @Test func othersHardwareAddressesDoNot() {
        let frame = Frame(.v4, .tcp, payload: [])
        #expect(Self.judge(frame.bytes, mac: MACAddress(2, 0, 0, 0, 0, 3)) == .foreignMAC)
        #expect(Self.judge(frame.bytes, mac: nil) == nil)
        #expect(Self.judge(Self.arp(sender: [10, 0, 0, 2], mac: [2, 0, 0, 0, 0, 9])) == .foreignMAC)
    }

    @Test func othersAddressesDoNot() {
        #expect(Self.judge(Frame(.v4, .tcp, payload: []).bytes, ["192.168.7.2", Self.v6]) == .foreignIPv4)
        #expect(Self.judge(Frame(.v6, .udp, payload: []).bytes, ["192.168.7.1"]) == .foreignIPv6)
        #expect(Self.judge(Self.arp(sender: [10, 0, 0, 3]), ["10.0.0.2"]) == .foreignARP)
        // Behind tags, too.
        #expect(Self.judge(Frame(.v4, .tcp, payload: [], tags: [7, 8]).bytes, ["10.0.0.1"]) == .foreignIPv4)
        // And in fragments, which have no ports.
        #expect(Self.judge(Frame(.v4, .udp, payload: [], fragment: 0x2001).bytes, ["10.0.0.1"]) == .foreignIPv4)
    }

    @Test func neighbourDiscoverySpeaksForItsSender() {
        #expect(Self.judge(Self.icmp(136, source: Self.own, target: Self.own), [Self.v6]) == nil)
        #expect(Self.judge(Self.icmp(136, source: Self.own, target: Self.other), [Self.v6]) == .foreignNeighbour)
        #expect(Self.judge(Self.icmp(136, source: Self.own), [Self.v6]) == .foreignNeighbour, "it is cut")
        #expect(Self.judge(Self.icmp(136, source: Self.local, target: Self.local), [Self.v6]) == nil)
        #expect(Self.judge(Self.icmp(135, source: Array(repeating: 0, count: 16), target: Self.own), [Self.v6]) == nil)
        #expect(Self.judge(Self.icmp(128, source: Self.other), [Self.v6]) == .foreignIPv6)
    }

    @Test func routersAndServersAreNotGuests() {
        #expect(Self.judge(Self.icmp(134, source: Self.local)) == .routerAdvertisement)
        #expect(Self.judge(Self.icmp(137, source: Self.local)) == .routerAdvertisement)
        for ip in [InternetProtocol.v4, .v6] {
            var frame = Frame(ip, .udp, payload: [1])
            let port = ip == .v4 ? 67 : 547
            let transport = frame.headers?.transport ?? 0
            frame.bytes.replaceSubrange(transport..<transport + 2, with: Frame.word(UInt16(port)))
            #expect(Self.judge(frame.bytes) == .dhcpServer)
        }
    }

    @Test func whoAsksForAnAddressHasNone() {
        var frame = Frame(.v4, .udp, payload: [1])
        frame.bytes.replaceSubrange(26..<30, with: [0, 0, 0, 0])
        #expect(Self.judge(frame.bytes, ["10.0.0.1"]) == .foreignIPv4)
        frame.bytes.replaceSubrange(34..<36, with: Frame.word(68))
        #expect(Self.judge(frame.bytes, ["10.0.0.1"]) == nil)
    }

    @Test func otherProtocolsNeedALooseInterface() {
        var frame = Frame(.v4, .tcp, payload: [])
        frame.bytes.replaceSubrange(12..<14, with: [0x88, 0xCC])
        #expect(Self.judge(frame.bytes) == nil)
        #expect(Self.judge(frame.bytes, ["10.0.0.1"]) == .otherProtocol)
        #expect(Self.judge(Array(Frame(.v4, .tcp, payload: []).bytes.prefix(30)), ["192.168.7.1"]) == .otherProtocol)
        #expect(Self.judge(Array(Self.arp(sender: [10, 0, 0, 2]).prefix(41))) == .otherProtocol)
        #expect(Self.judge([1, 2, 3]) == .otherProtocol)
    }
}
