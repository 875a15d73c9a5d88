import CXen
import Loopback
import NetFrames
import SharedRing
import Telemetry
import Testing
import XenWire

@testable import NetBackend

/// A control ring between a netfront and a backend.
private final class ControlFixture {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let front: NetFrontControl
    let ring: ControlRing
    let policy: SharedReceivePolicy

    init(queues: Int = 4, index: UInt32 = 0) throws {
        guest = try platform.createDomain(DomainID(5), pages: 16, references: 64)
        front = try NetFrontControl(guest, backend: DomainID(0), startingAt: index)
        policy = SharedReceivePolicy(queues: queues)
        ring = try ControlRing(
            front.reference, of: guest.id, policy: policy, grants: platform.openGrantTable(),
            events: platform.bindEventChannel(to: front.port.number, of: guest.id))
    }

    /// One request, and its status and data.
    func ask(_ type: UInt16, _ data: UInt32...) throws -> [UInt32] {
        let words = data + [0, 0, 0]
        front.put(type, words[0], words[1], words[2])
        front.publish()
        while ring.turn() {}
        let response = try #require(try front.reap().first)
        return [response.status, response.data]
    }

    var hash: HashSettings { policy.current.hash }
    var page: UInt32 { front.data.rawValue }
}

@Suite struct ControlRingTests {
    private static let success: [UInt32] = [0, 0]
    private static let notSupported: [UInt32] = [1, 0]
    private static let invalid: [UInt32] = [2, 0]
    private static let overflow: [UInt32] = [3, 0]

    /// Entries as they lie in the guest's page.
    private static func entries(_ queues: [UInt32]) -> [UInt8] {
        queues.flatMap { entry in (0..<4).map { UInt8(truncatingIfNeeded: entry >> (8 * $0)) } }
    }

    /// As Windows sets up receive-side scaling.
    @Test func `a guest sets its hash up`() throws {
        let fixture = try ControlFixture()
        #expect(try fixture.ask(7, 1) == Self.success)
        #expect(try fixture.ask(1) == [0, 15])
        #expect(try fixture.ask(2, 3) == Self.success)
        fixture.front.fill((1...40).map { UInt8($0) })
        #expect(try fixture.ask(3, fixture.page, 40) == Self.success)
        #expect(try fixture.ask(4) == [0, 128])
        #expect(try fixture.ask(5, 8) == Self.success)
        fixture.front.fill(Self.entries([3, 2, 1, 0]))
        #expect(try fixture.ask(6, fixture.page, 4, 4) == Self.success)
        let hash = fixture.hash
        #expect(hash.activeTypes == [.ipv4, .ipv4TCP] && hash.key == (1...40).map { UInt8($0) })
        #expect(hash.mapping == [0, 0, 0, 0, 3, 2, 1, 0])
        #expect(fixture.ring.cells.load(ControlCounter.controlRequests.rawValue) == 7)
    }

    @Test func `what was set is replaced as netif.h says`() throws {
        let fixture = try ControlFixture()
        _ = try fixture.ask(7, 1)
        _ = try fixture.ask(2, 15)
        fixture.front.fill([UInt8](repeating: 9, count: 40))
        _ = try fixture.ask(3, fixture.page, 40)
        _ = try fixture.ask(3, fixture.page, 2)
        #expect(fixture.hash.key == [9, 9] + [UInt8](repeating: 0, count: 38))
        // Of an empty key no byte is read, and so of no page.
        #expect(try fixture.ask(3, 60, 0) == Self.success)
        #expect(fixture.hash.key == [UInt8](repeating: 0, count: 40))
        fixture.front.fill(Self.entries([1, 1]))
        _ = try fixture.ask(5, 2)
        _ = try fixture.ask(6, fixture.page, 2, 0)
        #expect(fixture.hash.mapping == [1, 1])
        _ = try fixture.ask(5, 2)
        #expect(fixture.hash.mapping == [0, 0], "a new table is empty")
        _ = try fixture.ask(5, 0)
        #expect(fixture.hash.mapping == [])
        #expect(try fixture.ask(2, 0) == Self.success)
        #expect(fixture.hash.activeTypes == [])
        _ = try fixture.ask(2, 15)
        #expect(try fixture.ask(7, 0) == Self.success)
        #expect(fixture.hash.activeTypes == [])
    }

    @Test func `without an algorithm there are no types`() throws {
        let fixture = try ControlFixture()
        #expect(try fixture.ask(1) == Self.notSupported)
        #expect(try fixture.ask(2, 15) == Self.invalid)
        #expect(fixture.hash == HashSettings(queues: 4))
    }

    /// Nothing of what was set before changes, not even a part of the table.
    @Test func `what is out of range changes nothing`() throws {
        let fixture = try ControlFixture()
        _ = try fixture.ask(7, 1)
        _ = try fixture.ask(2, 15)
        _ = try fixture.ask(5, 8)
        let before = fixture.hash
        fixture.front.fill(Self.entries([1, 2, 3, 4, 0x100, 0x8000_0000]))
        for (type, data, answer) in [
            (2, [16], Self.invalid), (3, [fixture.page, 41], Self.overflow), (5, [129], Self.invalid),
            (7, [2], Self.invalid),
            (6, [fixture.page, 9, 0], Self.invalid), (6, [fixture.page, 1, 8], Self.invalid),
            (6, [fixture.page, 2, .max], Self.invalid), (6, [fixture.page, 129, 0], Self.overflow),
            // A queue that there is not: 4, 256 and 2^31.
            (6, [fixture.page, 4, 0], Self.invalid), (6, [fixture.page, 5, 0], Self.invalid),
            (6, [fixture.page, 6, 0], Self.invalid),
            // A page that is not granted, or does not exist.
            (6, [60, 4, 0], Self.invalid), (6, [.max, 4, 0], Self.invalid), (3, [60, 40], Self.invalid),
            (0, [], Self.notSupported), (8, [0], Self.notSupported), (9, [0, fixture.page, 1], Self.notSupported),
            (10, [0, fixture.page, 1], Self.notSupported), (.max, [], Self.notSupported),
        ] as [(UInt16, [UInt32], [UInt32])] {
            let words = data + [0, 0, 0]
            #expect(try fixture.ask(type, words[0], words[1], words[2]) == answer, "\(type) \(data)")
        }
        #expect(fixture.hash == before)
        #expect(fixture.ring.cells.load(ControlCounter.controlRefused.rawValue) == 19)
        #expect(fixture.ring.condition == .running)
        #expect(try fixture.ask(6, fixture.page, 3, 5) == Self.success)
        #expect(fixture.hash.mapping == [0, 0, 0, 0, 0, 1, 2, 3])
    }

    @Test func `the ring goes round, and rings once for a batch`() throws {
        let fixture = try ControlFixture(index: 0xFFFF_FFC0)
        #expect(fixture.ring.arm())
        for _ in 0..<5 {
            for _ in 0..<128 { #expect(fixture.front.put(4)) }
            #expect(!fixture.front.put(4))
            fixture.front.publish()
            #expect(!fixture.ring.arm(), "there is something to do")
            #expect(fixture.ring.turn() && !fixture.ring.turn())
            #expect(try fixture.front.reap().map(\.data) == [UInt32](repeating: 128, count: 128))
            #expect(fixture.ring.arm())
        }
    }

    /// xen-netback would answer two thousand million requests.
    @Test(arguments: [UInt32(129), 0x8000_0000, 0xFFFF_FFFF])
    func `a lying index stops the ring`(_ claim: UInt32) throws {
        let fixture = try ControlFixture()
        fixture.front.claim(claim)
        #expect(!fixture.ring.turn())
        #expect(fixture.ring.condition == .violated(.ringOverrun))
        fixture.front.put(4)
        fixture.front.publish()
        #expect(!fixture.ring.turn() && fixture.ring.arm())
        #expect(try fixture.front.reap().isEmpty)
    }

    // MARK: hashes on packets

    private static let key: [UInt8] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F, 0xB0, 0xD0, 0xCA,
        0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30, 0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B,
        0xBE, 0xAC, 0x01, 0xFA,
    ]

    /// The first flow of Microsoft's vectors.
    private static func published(_ payload: Int) -> [UInt8] {
        var bytes = tcp(payload)
        bytes.replaceSubrange(26..<38, with: [66, 9, 149, 187, 161, 142, 100, 80, 0x0A, 0xEA, 0x06, 0xE6])
        return bytes
    }

    @Test(arguments: [0, 256]) func `packets carry the hash that the guest asked for`(_ headroom: Int) throws {
        let control = try ControlFixture()
        let fixture = try Fixture(policy: control.policy)
        control.policy.change { $0.headroom = headroom }
        (fixture.front.headroom, fixture.front.takesHashes) = (UInt16(headroom), true)
        func hash(_ frame: [UInt8]) throws -> PacketHash? {
            fixture.offer(frame)
            fixture.settle()
            let delivered = try #require(try fixture.front.take().first)
            #expect(delivered.bytes == frame)
            return delivered.hash
        }
        #expect(try hash(Self.published(100)) == nil)
        _ = try control.ask(7, 1)
        _ = try control.ask(2, 3)
        control.front.fill(Self.key)
        _ = try control.ask(3, control.page, 40)
        #expect(try hash(Self.published(100)) == PacketHash(.ipv4TCP, 0x51CC_C178))
        #expect(try hash(Self.published(9000)) == PacketHash(.ipv4TCP, 0x51CC_C178))
        #expect(try hash(frame(100)) == nil, "no IP")
        _ = try control.ask(2, 1)
        #expect(try hash(Self.published(100)) == PacketHash(.ipv4, 0x323E_8FC2))
        _ = try control.ask(7, 0)
        #expect(try hash(Self.published(100)) == nil)
    }

    /// All three kinds of extra info at once, and pieces that each carry theirs.
    @Test(arguments: [true, false]) func `large packets carry their hash`(_ takesLarge: Bool) throws {
        let control = try ControlFixture()
        let fixture = try Fixture(takesLarge ? .all : .none, policy: control.policy)
        control.policy.change { $0.headroom = 128 }
        (fixture.front.headroom, fixture.front.takesHashes) = (128, true)
        _ = try control.ask(7, 1)
        _ = try control.ask(2, 15)
        control.front.fill(Self.key)
        _ = try control.ask(3, control.page, 40)
        var bytes = Self.published(30_000)
        let header = try unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return VirtioHeader() }
            return unsafe try Translation.toHost(
                base, count: buffer.count, .checksumBlank, Segmentation(.tcpV4, size: 1448))
        }
        fixture.offer(bytes, header)
        fixture.settle()
        let frames = try fixture.front.take()
        #expect(frames.count == (takesLarge ? 1 : 21))
        #expect(frames.allSatisfy { $0.hash == PacketHash(.ipv4TCP, 0x51CC_C178) })
        #expect(frames.allSatisfy { ($0.segmentation != nil) == takesLarge })
    }
}
