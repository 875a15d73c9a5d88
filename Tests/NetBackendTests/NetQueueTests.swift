import CXen
import Descriptors
import Glibc
import Loopback
import NetFrames
import SharedRing
import Telemetry
import Testing
import XenWire

@testable import NetBackend

/// A queue pair between a netfront and the other end of a TAP device, for which two connected sockets stand in: each
/// message is a frame with its header.
final class Fixture {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let front: NetFrontQueue
    let queue: NetQueue
    let clock = ModelClock()
    private let near: OwnedDescriptor
    private let far: OwnedDescriptor

    init(
        _ offloads: GuestOffloads = .all, scatters: Bool = true, isSplit: Bool = false, index: UInt32 = 0,
        filter: SourceFilter? = nil, limit: RateLimit = RateLimit(),
        policy: SharedReceivePolicy = SharedReceivePolicy(),
        closesTap: Bool = false, wrapping: (any GrantTable) -> any GrantTable = { $0 }
    ) throws {
        guest = try platform.createDomain(DomainID(5), pages: 2048, references: 2048)
        front = try NetFrontQueue(guest, backend: DomainID(0), isSplit: isSplit, startingAt: index)
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        try #require(unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0)
        near = OwnedDescriptor(owning: ends[0])
        far = OwnedDescriptor(owning: ends[1])
        let transmit = try platform.bindEventChannel(to: front.transmitPort.number, of: guest.id)
        let receive = isSplit ? try platform.bindEventChannel(to: front.receivePort.number, of: guest.id) : transmit
        queue = try NetQueue(
            NetQueueConfiguration(
                name: "test", domain: guest.id, backend: DomainID(0),
                rings: NetConnection.Rings(
                    transmit: front.references.transmit, receive: front.references.receive,
                    transmitPort: front.transmitPort.number, receivePort: front.receivePort.number),
                offloads: offloads, scatters: scatters, filter: filter, limit: limit, policy: policy),
            grants: wrapping(platform.openGrantTable()), transmitEvents: transmit, receiveEvents: receive,
            tap: closesTap ? -1 : near.number, clock: clock)
    }

    /// What the host got: header and frame.
    func sent() -> (header: VirtioHeader, frame: [UInt8])? {
        var bytes = [UInt8](repeating: 0, count: 70_000)
        let count = unsafe read(far.number, &bytes, bytes.count)
        guard count >= VirtioHeader.size else { return nil }
        return unsafe bytes.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else { return nil }
            return unsafe (VirtioHeader(base), Array(buffer[VirtioHeader.size..<count]))
        }
    }

    /// The host has a frame for the guest.
    func offer(_ frame: [UInt8], _ header: VirtioHeader = VirtioHeader()) {
        var bytes = [UInt8](repeating: 0, count: VirtioHeader.size) + frame
        unsafe bytes.withUnsafeMutableBytes { buffer in
            if let base = buffer.baseAddress { unsafe header.store(base) }
        }
        let written = unsafe write(far.number, bytes, bytes.count)
        #expect(written == bytes.count)
    }

    func settle() {
        for _ in 0..<100 { if !queue.turn() { return } }
    }

    subscript(counter: NetCounter) -> UInt64 { queue.cells.load(counter.rawValue) }
}

func frame(_ size: Int, _ seed: Int = 0) -> [UInt8] {
    [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x12, 0x34]
        + (14..<max(14, size)).map { UInt8(truncatingIfNeeded: $0 * 7 + seed) }
}

/// An IPv4 TCP frame; sums are left out.
func tcp(_ payload: Int) -> [UInt8] {
    let total = UInt16(40 + payload)
    let ip: [UInt8] = [
        0x45, 0, UInt8(total >> 8), UInt8(truncatingIfNeeded: total), 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0,
        2,
    ]
    let header: [UInt8] = [0, 80, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0]
    return [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0] + ip + header
        + (0..<payload).map { UInt8(truncatingIfNeeded: $0 * 3) }
}

@Suite struct NetQueueTests {
    // MARK: from the guest

    @Test(arguments: [14, 60, 64, 1514, 4095, 4096, 4097, 9014, 65_535], [false, true])
    func guestsFramesArrive(size: Int, isSplit: Bool) throws {
        let fixture = try Fixture(isSplit: isSplit, index: 0xFFFF_FFF0)
        for round in 0..<20 {
            fixture.front.send(frame(size, round))
            fixture.front.publish()
            fixture.settle()
            let sent = try #require(fixture.sent())
            #expect(sent.frame == frame(size, round))
            #expect(sent.header == VirtioHeader())
            try fixture.front.reap()
        }
        #expect(fixture.front.statuses == [0: 20 * ((size + 4095) / 4096)])
        #expect(fixture[.transmittedPackets] == 20 && fixture[.transmittedBytes] == UInt64(20 * size))
    }

    @Test func piecesArePutTogether() throws {
        let fixture = try Fixture()
        fixture.front.send(frame(3000), pieces: 1000)
        fixture.front.send(frame(18 * 50, 1), pieces: 50)
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == frame(3000))
        #expect(fixture.sent()?.frame == frame(900, 1))
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 3 + 18])
    }

    @Test func manyFramesAreOneBatch() throws {
        let fixture = try Fixture()
        for index in 0..<200 { fixture.front.send(frame(100, index)) }
        fixture.front.publish()
        #expect(fixture.queue.turn())
        for index in 0..<200 { #expect(fixture.sent()?.frame == frame(100, index)) }
        #expect(fixture[.grantCopies] == 1 && fixture[.grantSegments] == 200)
        #expect(fixture[.eventsSent] == 1)
        try fixture.front.reap()
    }

    @Test func segmentationIsHandedOn() throws {
        let fixture = try Fixture()
        fixture.front.send(tcp(20_000), .checksumBlank, Segmentation(.tcpV4, size: 1448))
        fixture.front.publish()
        fixture.settle()
        let sent = try #require(fixture.sent())
        #expect(sent.header.segmentation == VirtioHeader.tcpV4 && sent.header.segmentSize == 1448)
        #expect(sent.header.flags == VirtioHeader.needsChecksum && sent.header.checksumStart == 34)
        #expect(sent.frame.dropFirst(54) == tcp(20_000).dropFirst(54))
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 5, 1: 1], "five slots of data, one of extra info")
    }

    @Test func aBadGrantCostsItsPacket() throws {
        let fixture = try Fixture()
        fixture.front.send(frame(100, 1))
        fixture.front.put(netif_tx_request_wire(gref: 2000, offset: 0, flags: 0, id: 77, size: 100), 300)
        fixture.front.send(frame(100, 2))
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == frame(100, 1))
        #expect(fixture.sent()?.frame == frame(100, 2))
        #expect(fixture.sent() == nil)
        #expect(fixture[.grantRefused] == 1 && fixture.queue.condition == .running)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 2, -1: 1])
    }

    @Test func faultsAreCountedAndAnswered() throws {
        let fixture = try Fixture()
        fixture.front.send([UInt8](repeating: 1, count: 13))
        fixture.front.send(frame(100), .checksumBlank)
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent() == nil)
        #expect(fixture[.tooShort] == 1 && fixture[.frameRefused] == 1)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [-1: 2])
    }

    @Test func aBrokenRuleStopsTheQueueAfterWhatWasRight() throws {
        let fixture = try Fixture()
        fixture.front.send(frame(100))
        fixture.front.put(netif_tx_request_wire(gref: 0, offset: 4000, flags: 0, id: 1, size: 200), 300)
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == frame(100))
        #expect(fixture.queue.condition == .violated(.beyondPage))
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 1])
        fixture.front.send(frame(100))
        fixture.front.publish()
        #expect(!fixture.queue.turn() && fixture.sent() == nil)
    }

    @Test func whatIsNotTheGuestsIsKeptBack() throws {
        let filter = SourceFilter(mac: MACAddress(2, 0, 0, 0, 0, 2), addresses: [])
        let fixture = try Fixture(filter: filter)
        var forged = frame(100)
        forged[11] = 3
        fixture.front.send(forged)
        fixture.front.send(frame(100))
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == frame(100))
        #expect(fixture.sent() == nil)
        #expect(fixture.queue.cells[FilterReason.foreignMAC] == 1 && fixture[.transmittedPackets] == 1)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 2], "lost, as on any network")
    }

    /// More requests than the ring holds, or fewer than were taken: nothing on either ring counts any more.
    @Test(arguments: [UInt32(257), 0x8000_0000, 0xFFFF_FFFF], [0, 1])
    func aLyingIndexStopsBothRings(claim: UInt32, ring: Int) throws {
        let fixture = try Fixture()
        fixture.front.claim(claim, ofTransmit: ring == 0)
        fixture.offer(frame(100))
        fixture.settle()
        #expect(fixture.queue.condition == .violated(.ringOverrun))
        #expect(fixture.queue.cells[NetViolation.ringOverrun] == 1)
        #expect(!fixture.queue.turn() && fixture.queue.arm() && !fixture.queue.canDeliver)
        #expect(fixture.sent() == nil && fixture[.receivedPackets] == 0)
    }

    // MARK: to the guest

    @Test(arguments: [14, 60, 1514, 4096, 4097, 9014, 65_549], [false, true])
    func framesReachTheGuest(size: Int, isSplit: Bool) throws {
        let fixture = try Fixture(isSplit: isSplit, index: 0xFFFF_FFFA)
        for round in 0..<20 {
            fixture.offer(frame(size, round))
            fixture.settle()
            #expect(
                try fixture.front.take() == [DeliveredFrame(bytes: frame(size, round), flags: [], segmentation: nil)])
        }
        #expect(fixture[.receivedPackets] == 20 && fixture[.receivedBytes] == UInt64(20 * size))
    }

    /// Needs a TCP frame that the kernel left unfinished; see TranslationTests for all the cases.
    private func unfinished(_ payload: Int, large: Bool) throws -> (frame: [UInt8], header: VirtioHeader) {
        var bytes = tcp(payload)
        let header = try unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return VirtioHeader() }
            return unsafe try Translation.toHost(
                base, count: buffer.count, .checksumBlank, large ? Segmentation(.tcpV4, size: 1448) : nil)
        }
        return (bytes, header)
    }

    @Test func largeFramesGoWhole() throws {
        let fixture = try Fixture()
        let (bytes, header) = try unfinished(30_000, large: true)
        fixture.offer(bytes, header)
        fixture.settle()
        #expect(
            try fixture.front.take() == [
                DeliveredFrame(
                    bytes: bytes, flags: [.checksumBlank, .dataValidated],
                    segmentation: Segmentation(.tcpV4, size: 1448))
            ])
    }

    @Test(arguments: [true, false])
    func largeFramesAreCutForGuestsThatTakeNone(scatters: Bool) throws {
        let fixture = try Fixture(.none, scatters: scatters)
        let (bytes, header) = try unfinished(30_000, large: true)
        fixture.offer(bytes, header)
        fixture.settle()
        let frames = try fixture.front.take()
        #expect(frames.count == (30_000 + 1447) / 1448)
        #expect(frames.flatMap { $0.bytes.dropFirst(54) } == Array(bytes.dropFirst(54)))
        #expect(frames.allSatisfy { $0.flags == .dataValidated && $0.segmentation == nil && $0.bytes.count <= 1502 })
    }

    /// Those that need no look and those that do, short and long, come in the order in which they came.
    @Test(arguments: 1...10 as ClosedRange<UInt64>)
    func framesOfAllKindsKeepTheirOrder(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let fixture = try Fixture()
        for _ in 0..<15 {
            var expected: [DeliveredFrame] = []
            for index in 0..<10 {
                let size = [60, 1514, 4096, 4097, 9014].randomElement(using: &random) ?? 60
                switch random.next() % 4 {
                case 0:
                    let (bytes, header) = try unfinished(size, large: true)
                    fixture.offer(bytes, header)
                    expected.append(
                        DeliveredFrame(
                            bytes: bytes, flags: [.checksumBlank, .dataValidated],
                            segmentation: Segmentation(.tcpV4, size: 1448)))
                case 1:
                    let (bytes, header) = try unfinished(size, large: false)
                    fixture.offer(bytes, header)
                    expected.append(
                        DeliveredFrame(bytes: bytes, flags: [.checksumBlank, .dataValidated], segmentation: nil))
                case 2:
                    fixture.offer(frame(size, index), .validated)
                    expected.append(
                        DeliveredFrame(bytes: frame(size, index), flags: .dataValidated, segmentation: nil))
                default:
                    fixture.offer(frame(size, index))
                    expected.append(DeliveredFrame(bytes: frame(size, index), flags: [], segmentation: nil))
                }
            }
            fixture.settle()
            #expect(try fixture.front.take() == expected)
        }
    }

    @Test func aFrameWaitsForRoom() throws {
        let fixture = try Fixture()
        // 256 slots: fifteen frames of seventeen, and one that does not fit.
        for index in 0..<16 {
            fixture.offer(frame(65_536 + 100, index))
            fixture.settle()
        }
        #expect(!fixture.queue.canDeliver)
        let first = try fixture.front.take()
        #expect(first.count == 15)
        fixture.settle()
        let rest = try fixture.front.take()
        #expect((first + rest).map(\.bytes) == (0..<16).map { frame(65_536 + 100, $0) })
    }

    /// A slot too few, or none: the queue sleeps, and is woken by what the guest puts up.
    @Test(arguments: [240, 256])
    func waitingForBuffersCostsNothing(taken: Int) throws {
        let fixture = try Fixture()
        for index in 0..<taken {
            fixture.offer(frame(60, index))
            fixture.settle()
        }
        fixture.offer(frame(65_536 + 100))
        fixture.settle()
        #expect(fixture.queue.lacksBuffers && !fixture.queue.canDeliver)
        #expect(fixture.queue.arm(), "it may sleep, whatever is there")
        #expect(try fixture.front.take().count == taken)
        #expect(!fixture.platform.deliverable.isEmpty, "the frontend had to send an event")
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [frame(65_536 + 100)])
    }

    /// The sum of a frame that is looked at more than once is completed once.
    @Test(arguments: [1, 2, 3]) func waitingDoesNotChangeAFrame(looks: Int) throws {
        let (bytes, header) = try unfinished(5000, large: false)
        let idle = try Fixture(.none)
        idle.offer(bytes, header)
        idle.settle()
        let expected = try idle.front.take()
        let busy = try Fixture(.none)
        for index in 0..<255 {
            busy.offer(frame(60, index))
            busy.settle()
        }
        busy.offer(bytes, header)
        for _ in 0..<looks { _ = busy.queue.turn() }
        #expect(busy.queue.lacksBuffers)
        #expect(try busy.front.take().count == 255)
        busy.settle()
        #expect(try busy.front.take() == expected)
    }

    @Test func aTapDeviceThatIsGoneStopsTheQueue() throws {
        let fixture = try Fixture(closesTap: true)
        fixture.settle()
        guard case .failed = fixture.queue.condition else {
            Issue.record("\(fixture.queue.condition)")
            return
        }
        #expect(!fixture.queue.turn() && fixture.queue.arm() && !fixture.queue.canDeliver)
    }

    @Test func withoutScatterGatherNothingLongerThanAPageIsDelivered() throws {
        let fixture = try Fixture(.none, scatters: false)
        fixture.offer(frame(4097))
        fixture.offer(frame(4096))
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [frame(4096)])
        #expect(fixture[.tooLarge] == 1)
    }

    // MARK: the rate limit

    /// 8 KiB in a millisecond; sixteen frames of that size at once.
    private func slow() -> RateLimit { RateLimit(TransferRate(bytes: 8192, microseconds: 1000)) }

    /// Twenty frames, in two parts because the socket does not hold them all; checks those that arrive.
    private func sendMuch(_ fixture: Fixture) {
        for part in [0..<10, 10..<20] {
            for seed in part { fixture.front.send(frame(8192, seed)) }
            fixture.front.publish()
            fixture.settle()
            for seed in part where seed < 16 { #expect(fixture.sent()?.frame == frame(8192, seed)) }
        }
        #expect(fixture.sent() == nil)
    }

    @Test func whatIsTooMuchStaysOnTheRing() throws {
        let fixture = try Fixture(limit: slow())
        sendMuch(fixture)
        #expect(fixture[.transmittedPackets] == 16)
        #expect(fixture.queue.arm(), "no event would tell when to go on")
        #expect(fixture.queue.restEnds == 1 + 1_000_000)
        #expect(!fixture.queue.turn())
        fixture.clock.advance(by: 1_000_000)
        fixture.settle()
        #expect(fixture[.transmittedPackets] == 17)
        #expect(fixture.sent()?.frame == frame(8192, 16))
        fixture.clock.advance(by: 1_000_000_000)
        fixture.settle()
        for seed in 17..<20 { #expect(fixture.sent()?.frame == frame(8192, seed)) }
        #expect(fixture.sent() == nil && fixture.queue.restEnds == .max)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 40])
    }

    @Test func bothDirectionsShareTheLimit() throws {
        let fixture = try Fixture(limit: slow())
        sendMuch(fixture)
        for seed in 0..<3 { fixture.offer(frame(1000, seed)) }
        fixture.settle()
        #expect(fixture[.transmittedPackets] == 16 && fixture[.receivedPackets] == 0)
        #expect(!fixture.queue.canDeliver && !fixture.queue.lacksBuffers, "time is what is lacking")
        fixture.clock.advance(by: 600_000)
        fixture.settle()
        #expect(fixture[.transmittedPackets] == 16 && fixture[.receivedPackets] == 3)
        #expect(try fixture.front.take().map(\.bytes) == (0..<3).map { frame(1000, $0) })
        fixture.clock.advance(by: 600_000)
        fixture.settle()
        #expect(fixture[.transmittedPackets] == 16, "3,000 bytes of this millisecond went the other way")
    }

    @Test func aFrameThatWaitsForBuffersIsChargedOnce() throws {
        let fixture = try Fixture(limit: slow())
        for index in 0..<256 {
            fixture.offer(frame(60, index))
            fixture.settle()
        }
        fixture.offer(frame(65_000))
        for _ in 0..<10 { fixture.settle() }
        _ = try fixture.front.take()
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [frame(65_000)])
        fixture.offer(frame(131_072 - 256 * 60 - 65_000))
        fixture.settle()
        #expect(try fixture.front.take().count == 1)
    }

    @Test func aChangedLimitHoldsAtOnce() throws {
        let limit = slow()
        let fixture = try Fixture(limit: limit)
        sendMuch(fixture)
        limit.set(nil)
        fixture.queue.endRest()
        fixture.settle()
        #expect(fixture[.transmittedPackets] == 20)
    }

    @Test func aBacklogCanBeThrownAway() throws {
        let fixture = try Fixture()
        for index in 0..<256 {
            fixture.offer(frame(60, index))
            fixture.settle()
        }
        for seed in 0..<5 { fixture.offer(frame(100, seed)) }
        fixture.settle()
        #expect(fixture.queue.lacksBuffers)
        #expect(fixture.queue.discardBacklog() == 5 && fixture[.expired] == 5)
        _ = try fixture.front.take()
        fixture.offer(frame(100, 9))
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [frame(100, 9)])
    }

    // MARK: events

    /// An event per batch, and none for nothing: netfronts hold back channels that ring in vain.
    @Test func eventsComeWithResponsesOnly() throws {
        let fixture = try Fixture()
        #expect(fixture.queue.arm())
        for _ in 0..<10 { #expect(!fixture.queue.turn()) }
        #expect(fixture[.eventsSent] == 0)
        fixture.front.send(frame(100))
        fixture.front.publish()
        #expect(!fixture.queue.arm(), "there is something to do")
        fixture.settle()
        #expect(fixture[.eventsSent] == 1)
        try fixture.front.reap()
        fixture.front.send(frame(100))
        fixture.front.publish()
        fixture.settle()
        #expect(fixture[.eventsSent] == 1, "the frontend has not asked for another one")
    }
}
