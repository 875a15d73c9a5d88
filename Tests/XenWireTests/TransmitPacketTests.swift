import CXen
import Testing

@testable import XenWire

@Suite struct TransmitPacketTests {
    typealias Slot = netif_tx_request_wire

    static func slot(_ size: UInt16, _ flags: TransmitFlags = [], offset: UInt16 = 0) -> Slot {
        Slot(gref: 9, offset: offset, flags: flags.rawValue, id: 3, size: size)
    }

    static func extra(_ type: UInt8, more: Bool = false, _ body: [UInt8] = [0xA8, 5, 1, 0, 0, 0]) -> Slot {
        let words = [type, more ? 1 : 0] + body
        return Slot(
            gref: UInt32(words[0]) | UInt32(words[1]) << 8 | UInt32(words[2]) << 16 | UInt32(words[3]) << 24,
            offset: UInt16(words[4]) | UInt16(words[5]) << 8, flags: UInt16(words[6]) | UInt16(words[7]) << 8, id: 0,
            size: 0)
    }

    static func judge(_ slots: [Slot]) throws(NetViolation) -> TransmitPacket {
        var result: Result<TransmitPacket, NetViolation> = .failure(.ringOverrun)
        unsafe slots.withUnsafeBufferPointer { table in
            guard let base = table.baseAddress else { return }
            do throws(NetViolation) {
                result = .success(unsafe try TransmitPacket.judge(base, count: table.count))
            } catch {
                result = .failure(error)
            }
        }
        return try result.get()
    }

    @Test func oneSlot() throws {
        let packet = try Self.judge([Self.slot(1514, .checksumBlank), Self.slot(9)])
        #expect(packet.slots == 1 && packet.extras == 0 && packet.size == 1514 && packet.firstSize == 1514)
        #expect(packet.flags == .checksumBlank && packet.fault == nil && packet.segmentation == nil)
    }

    @Test func theFirstSizeIsTheWholePackets() throws {
        let packet = try Self.judge([Self.slot(9000, .moreData), Self.slot(4096, .moreData), Self.slot(4000)])
        #expect(packet.slots == 3 && packet.size == 9000 && packet.firstSize == 904)
    }

    @Test func extraInfoComesBehindTheFirstSlot() throws {
        let packet = try Self.judge([
            Self.slot(6000, [.extraInfo, .moreData, .checksumBlank]), Self.extra(1, more: true), Self.extra(4),
            Self.slot(4000),
        ])
        #expect(packet.slots == 4 && packet.extras == 2 && packet.firstSize == 2000)
        #expect(packet.segmentation == Segmentation(.tcpV4, size: 1448))
    }

    @Test(arguments: [(UInt8(2), true), (3, false)])
    func multicastChangesTakeTheirWholeChain(type: UInt8, joins: Bool) throws {
        let group: [UInt8] = [0x33, 0x33, 0, 0, 0, 1]
        let packet = try Self.judge([
            Self.slot(64, [.extraInfo, .moreData]), Self.extra(type, group), Self.slot(20), Self.slot(99),
        ])
        let address = try #require(MACAddress("33:33:00:00:00:01"))
        #expect(packet.multicast == (joins ? .joinMulticast(address) : .leaveMulticast(address)))
        #expect(packet.slots == 3)
    }

    /// Nobody looks at its data: frontends may leave everything but the flag at 0, or have it point anywhere.
    @Test(arguments: [slot(0, .extraInfo), slot(13, .extraInfo), slot(4096, .extraInfo, offset: 1)])
    func aChangeOfTheMulticastListNeedsNoData(first: Slot) throws {
        let packet = try Self.judge([first, Self.extra(2, [1, 0, 0x5E, 0, 0, 1])])
        #expect(packet.multicast != nil && packet.fault == nil)
    }

    @Test(
        arguments: [
            ([slot(100, .moreData)], NetViolation.chainWithoutEnd),
            ([slot(100, .extraInfo)], .chainWithoutEnd),
            ([slot(100, .extraInfo), extra(1, more: true)], .chainWithoutEnd),
            ([slot(100, .extraInfo), extra(0)], .unknownExtra),
            ([slot(100, .extraInfo), extra(5)], .unknownExtra),
            ([slot(100, .extraInfo), extra(1, more: true), extra(1)], .repeatedExtra),
            ([slot(100, .extraInfo), extra(2, more: true), extra(3)], .repeatedExtra),
            ([slot(100, .extraInfo), extra(4, more: true), extra(4)], .repeatedExtra),
            ([slot(100, .extraInfo)] + Array(repeating: extra(4, more: true), count: 8), .repeatedExtra),
            ([slot(100, .extraInfo), extra(1, [0, 0, 1, 0, 0, 0])], .segmentOfNothing),
            ([slot(100, .extraInfo), extra(1, [1, 0, 3, 0, 0, 0])], .unknownSegmentation),
            ([slot(100, .extraInfo), extra(1, [1, 0, 0, 0, 0, 0])], .unknownSegmentation),
            ([slot(4097)], .beyondPage),
            ([slot(100, offset: 3997)], .beyondPage),
            ([slot(200, .moreData), slot(100, offset: 3997)], .beyondPage),
            (Array(repeating: slot(22, .moreData), count: 21) + [slot(1)], .tooManySlots),
            (Array(repeating: slot(60_000, .moreData), count: 256), .beyondPage),
        ] as [([Slot], NetViolation)])
    func brokenRulesAreNamed(slots: [Slot], violation: NetViolation) {
        #expect(throws: violation) { try Self.judge(slots) }
    }

    @Test(
        arguments: [
            ([slot(13)], TransmitFault.tooShort, 1), ([slot(0)], .tooShort, 1),
            ([slot(100, .moreData), slot(90)], .tooShort, 2),
            ([slot(100, .moreData), slot(101)], .longerThanSaid, 2),
            ([slot(100, .moreData), slot(60, .moreData), slot(41, .moreData), slot(5)], .longerThanSaid, 4),
            ([slot(100, .moreData), slot(101, .moreData), slot(4096, offset: 4000)], .longerThanSaid, 3),
            (Array(repeating: slot(100, .moreData), count: 19) + [slot(1)], .longerThanSaid, 20),
            ([slot(100, .moreData)] + Array(repeating: slot(1, .moreData), count: 18) + [slot(1)], .tooManySlots, 20),
            ([slot(100, .moreData)] + Array(repeating: slot(1, .moreData), count: 19) + [slot(1)], .tooManySlots, 21),
        ] as [([Slot], TransmitFault, Int)])
    func otherFaultsCostOnePacket(slots: [Slot], fault: TransmitFault, taken: Int) throws {
        let packet = try Self.judge(slots + [Self.slot(77)])
        #expect(packet.fault == fault)
        #expect(packet.slots == taken)
    }

    @Test func edgesAreFine() throws {
        #expect(try Self.judge([Self.slot(14)]).fault == nil)
        #expect(try Self.judge([Self.slot(4096)]).fault == nil)
        #expect(try Self.judge([Self.slot(96, offset: 4000)]).fault == nil)
        #expect(try Self.judge([Self.slot(100, .moreData), Self.slot(0, offset: 4096)]).fault == nil)
        #expect(
            try Self.judge(Array(repeating: Self.slot(3000, .moreData), count: 18) + [Self.slot(100)]).fault
                == .longerThanSaid)
        let most =
            [Self.slot(65_535, .moreData)] + Array(repeating: Self.slot(3500, .moreData), count: 17) + [Self.slot(3000)]
        #expect(try Self.judge(most).fault == nil)
    }

    /// Whatever a guest writes: it is judged, takes at least one slot and no more than there are.
    @Test func anythingIsJudged() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let slots = (0..<Int.random(in: 1...40, using: &random)).map { _ in
                Slot(
                    gref: .random(in: 0...(.max), using: &random), offset: .random(in: 0...4100, using: &random),
                    flags: .random(in: 0...15, using: &random), id: 0, size: .random(in: 0...4200, using: &random))
            }
            guard let packet = try? Self.judge(slots) else { continue }
            #expect((1...slots.count).contains(packet.slots) && packet.extras < packet.slots)
            #expect(packet.fault != nil || packet.multicast != nil || packet.firstSize <= 4096)
        }
    }

    @Test(arguments: [
        ("00:16:3e:01:02:03", 0x0016_3E01_0203 as UInt64?), ("0:1:2:3:4:5", 0x0001_0203_0405),
        ("ff:FF:ff:ff:ff:ff", 0xFFFF_FFFF_FFFF),
        ("", nil), ("00:16:3e:01:02", nil), ("00:16:3e:01:02:03:04", nil), ("00:16:3e:01:02:0g", nil),
        ("00-16-3e-01-02-03", nil),
        ("00:16:3e:01:02:003", nil), ("00:16:3e:01:02:+3", nil), ("00:16:3e:01:02:", nil),
    ])
    func hardwareAddresses(text: String, value: UInt64?) {
        #expect(MACAddress(text)?.rawValue == value)
        if let value { #expect(MACAddress(MACAddress(rawValue: value).description)?.rawValue == value) }
    }
}
