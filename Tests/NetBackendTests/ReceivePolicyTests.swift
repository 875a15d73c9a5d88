import CXen
import Loopback
import NetFrames
import Testing
import XenWire

@testable import NetBackend

/// What a guest may wish of the frames that it gets: which groups, how much headroom. Hashes: ControlRingTests.
@Suite struct ReceivePolicyTests {
    static func group(_ number: Int) -> MACAddress {
        MACAddress(1, 0, 0x5E, 0, UInt8(number >> 8), UInt8(number & 255))
    }

    static func frame(to address: MACAddress, _ size: Int = 100) -> [UInt8] {
        (0..<6).map { UInt8(truncatingIfNeeded: address.rawValue >> UInt64(40 - 8 * $0)) } + frame(size).dropFirst(6)
    }

    private static func frame(_ size: Int) -> [UInt8] { NetBackendTests.frame(size) }

    /// Which of some addresses frames reach the guest at.
    private static func reached(_ fixture: Fixture, _ addresses: [MACAddress]) throws -> [MACAddress] {
        for address in addresses {
            fixture.offer(frame(to: address))
            fixture.settle()
        }
        return try fixture.front.take().map { delivered in
            MACAddress(rawValue: delivered.bytes.prefix(6).reduce(0) { $0 << 8 | UInt64($1) })
        }
    }

    private static func change(_ fixture: Fixture, _ address: MACAddress, joins: Bool) throws {
        fixture.front.changeGroups(address, joins: joins)
        fixture.front.publish()
        fixture.settle()
        try fixture.front.reap()
    }

    // MARK: multicast

    private static let station = MACAddress(2, 0, 0, 0, 0, 1)

    @Test func `only groups on the list reach a guest that asks for that`() throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(policy: policy)
        let all = [Self.group(1), Self.group(2), Self.station, .broadcast, MACAddress(0x33, 0x33, 0, 0, 0, 1)]
        #expect(try Self.reached(fixture, all) == all, "it has not asked")
        try Self.change(fixture, Self.group(2), joins: true)
        #expect(try Self.reached(fixture, all) == all, "the list alone does nothing")
        policy.change { $0.filtersGroups = true }
        #expect(try Self.reached(fixture, all) == [Self.group(2), Self.station, .broadcast])
        try Self.change(fixture, Self.group(2), joins: false)
        try Self.change(fixture, Self.group(1), joins: true)
        #expect(try Self.reached(fixture, all) == [Self.group(1), Self.station, .broadcast])
        policy.change { $0.filtersGroups = false }
        #expect(try Self.reached(fixture, all) == all, "it may change its mind")
        #expect(fixture[.multicastFiltered] == 4 && fixture[.multicastChanges] == 3)
        #expect(fixture.sent() == nil, "such packets are not sent")
    }

    @Test func `all queues share the list`() throws {
        let policy = SharedReceivePolicy(queues: 2)
        let fixtures = [try Fixture(policy: policy), try Fixture(policy: policy)]
        policy.change { $0.filtersGroups = true }
        try Self.change(fixtures[0], Self.group(1), joins: true)
        #expect(try Self.reached(fixtures[1], [Self.group(1), Self.group(2)]) == [Self.group(1)])
    }

    @Test func `a list has 64 entries, and joining once more than that is answered with an error`() throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(policy: policy)
        policy.change { $0.filtersGroups = true }
        for number in 0..<64 { try Self.change(fixture, Self.group(number), joins: true) }
        #expect(fixture.front.statuses == [0: 64, 1: 64])
        try Self.change(fixture, Self.group(64), joins: true)
        #expect(fixture.front.statuses == [0: 64, 1: 65, -1: 1] && fixture[.multicastRefused] == 1)
        try Self.change(fixture, Self.group(63), joins: true)
        #expect(fixture.front.statuses[0] == 65, "it is there already")
        #expect(try Self.reached(fixture, [Self.group(63), Self.group(64)]) == [Self.group(63)])
        try Self.change(fixture, Self.group(7), joins: false)
        try Self.change(fixture, Self.group(64), joins: true)
        #expect(try Self.reached(fixture, [Self.group(7), Self.group(64)]) == [Self.group(64)])
        #expect(fixture.queue.condition == .running)
    }

    @Test func `a station is no group, and leaving what was not joined is no fault`() throws {
        let fixture = try Fixture()
        try Self.change(fixture, Self.station, joins: true)
        #expect(fixture.front.statuses == [-1: 1, 1: 1])
        try Self.change(fixture, Self.group(1), joins: false)
        #expect(fixture.front.statuses == [-1: 1, 0: 1, 1: 2])
    }

    @Test func `the rest of a packet that changes the list is answered and not sent`() throws {
        let fixture = try Fixture()
        let front = fixture.front
        front.put(netif_tx_request_wire(gref: 1, offset: 0, flags: 12, id: 1, size: 100), 300)
        front.put(netif_tx_request_wire(gref: 0x0001_0002, offset: 0x005E, flags: 0x0100, id: 2, size: 0), nil)
        front.put(netif_tx_request_wire(gref: 1, offset: 0, flags: 0, id: 3, size: 50), 301)
        front.send(Self.frame(100))
        front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == Self.frame(100))
        #expect(fixture.sent() == nil && fixture[.multicastChanges] == 1)
        try front.reap()
        #expect(front.statuses == [0: 3, 1: 1])
    }

    // MARK: headroom

    @Test(
        arguments: [1, 256, 4082], [14, 15, 60, 1514, 3839, 3840, 3841, 4095, 4096, 4097, 7936, 7937, 9014, 65_549])
    func `packets begin where the headroom ends`(_ headroom: Int, _ size: Int) throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(policy: policy)
        policy.change { $0.headroom = headroom }
        fixture.front.headroom = UInt16(headroom)
        for round in 0..<20 {
            let bytes = NetBackendTests.frame(size, round)
            fixture.offer(bytes)
            fixture.settle()
            #expect(try fixture.front.take() == [DeliveredFrame(bytes: bytes, flags: [], segmentation: nil)])
        }
        #expect(fixture[.receivedBytes] == UInt64(20 * size))
    }

    /// The frame takes a page, because of the headroom a second one, and a slot for the extra info: one more than there
    /// is after 127 packets of two slots.
    @Test func `headroom and extra info count as slots`() throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(policy: policy)
        policy.change { $0.headroom = 256 }
        fixture.front.headroom = 256
        for index in 0..<127 {
            fixture.offer(NetBackendTests.frame(60, index))
            fixture.settle()
        }
        fixture.offer(Self.frame(4096))
        fixture.settle()
        #expect(fixture.queue.lacksBuffers)
        #expect(try fixture.front.take().count == 127)
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [Self.frame(4096)])
    }

    @Test func `without scatter-gather a packet and its headroom share a page`() throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(.none, scatters: false, policy: policy)
        policy.change { $0.headroom = 256 }
        fixture.front.headroom = 256
        fixture.offer(Self.frame(3841))
        fixture.offer(Self.frame(3840))
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [Self.frame(3840)])
        #expect(fixture[.tooLarge] == 1)
    }

    @Test func `headroom comes and goes while the guest is connected`() throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(policy: policy)
        for headroom in [0, 256, 100, 0] {
            policy.change { $0.headroom = headroom }
            fixture.front.headroom = UInt16(headroom)
            fixture.offer(Self.frame(5000))
            fixture.settle()
            #expect(try fixture.front.take().map(\.bytes) == [Self.frame(5000)])
        }
    }

    /// Cut packets have slots of extra info of their own.
    @Test(arguments: [true, false]) func `large packets have headroom too`(_ takesLarge: Bool) throws {
        let policy = SharedReceivePolicy()
        let fixture = try Fixture(takesLarge ? .all : .none, policy: policy)
        policy.change { $0.headroom = 256 }
        fixture.front.headroom = 256
        var bytes = tcp(30_000)
        let header = try unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return VirtioHeader() }
            return unsafe try Translation.toHost(
                base, count: buffer.count, .checksumBlank, Segmentation(.tcpV4, size: 1448))
        }
        fixture.offer(bytes, header)
        fixture.settle()
        let frames = try fixture.front.take()
        #expect(frames.count == (takesLarge ? 1 : 21))
        #expect(frames.flatMap { $0.bytes.dropFirst(54) } == Array(bytes.dropFirst(54)))
        #expect(frames.allSatisfy { ($0.segmentation != nil) == takesLarge })
    }
}
