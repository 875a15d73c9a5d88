import CXen
import Descriptors
import Loopback
import NetFrames
import SharedRing
import Testing
import XenWire

@testable import NetBackend

/// What guests do that wish the backend no good, and what they may do though it looks as if they did.
@Suite struct HostileQueueTests {
    // MARK: what is looked at once

    /// XSA-155: the guest changes its requests as soon as they have been judged, between two batches of a turn as well.
    @Test func requestsAreLookedAtOnce() throws {
        let fixture = try Fixture(wrapping: OverwritingGrants.init)
        fixture.front.send(tcp(20_000), .checksumBlank, large)
        for seed in 0..<2 { fixture.front.send(frame(65_535, seed)) }
        fixture.front.send(frame(100))
        fixture.front.publish()
        fixture.settle()
        fixture.front.alterTransmit(0) { #expect($0.size == .max, "it was overwritten while it was open") }
        #expect(fixture[.grantCopies] == 2, "the second batch was judged after that")
        let segmented = try #require(fixture.sent())
        #expect(segmented.header.segmentSize == 1448 && segmented.header.segmentation == VirtioHeader.tcpV4)
        #expect(segmented.frame.dropFirst(54) == tcp(20_000).dropFirst(54))
        for seed in 0..<2 { #expect(fixture.sent()?.frame == frame(65_535, seed)) }
        #expect(fixture.sent()?.frame == frame(100))
        #expect(fixture.sent() == nil && fixture.queue.condition == .running)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 5 + 2 * 16 + 1, 1: 1])
    }

    @Test func receiveBuffersAreLookedAtOnce() throws {
        let fixture = try Fixture(wrapping: OverwritingGrants.init)
        for size in [60, 9014, 1514] { fixture.offer(frame(size)) }
        fixture.settle()
        fixture.front.alterReceive(200) { #expect($0.gref == .max, "all were overwritten") }
        #expect(try fixture.front.take().map(\.bytes) == [frame(60), frame(9014), frame(1514)])
    }

    /// The index moves back while frames are delivered: the turn ends, and the next one finds it.
    @Test(arguments: [UInt32(0x8000_0000), 0xFFFF_FF00])
    func anIndexThatLiesDuringATurnEndsIt(claim: UInt32) throws {
        let grants = ClaimingGrants()
        let fixture = try Fixture {
            grants.table = $0
            return grants
        }
        grants.claim = { [front = fixture.front] in front.claim(claim, ofTransmit: false) }
        for seed in 0..<3 { fixture.offer(frame(60_000, seed)) }
        fixture.settle()
        #expect(fixture.queue.condition == .violated(.ringOverrun))
        #expect(fixture.queue.cells[NetViolation.ringOverrun] == 1)
    }

    /// A broken rule of one ring stops both in the same turn, and stays what is said, whatever else happens in it.
    @Test(arguments: [false, true]) func aBrokenRuleStopsTheOtherRingAtOnce(closesTap: Bool) throws {
        let fixture = try Fixture(closesTap: closesTap)
        if !closesTap { fixture.offer(frame(100)) }
        fixture.front.put(netif_tx_request_wire(gref: 0, offset: 0, flags: 0, id: 1, size: 4097), nil)
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.queue.condition == .violated(.beyondPage))
        #expect(fixture[.receivedPackets] == 0 && fixture.queue.cells[NetViolation.beyondPage] == 1)
    }

    // MARK: grants

    /// Legal by XSA-448: of an empty slot nothing is copied, so that nobody asks for its grant.
    @Test func anEmptySlotNeedsNoGrant() throws {
        let fixture = try Fixture()
        fixture.front.send(frame(3000), pieces: 1000)
        fixture.front.alterTransmit(0) { $0.size = 2000 }
        fixture.front.alterTransmit(1) {
            $0.gref = 2000
            $0.size = 0
        }
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == Array(frame(3000)[..<1000] + frame(3000)[2000...]))
        #expect(fixture[.grantSegments] == 2 && fixture[.grantRefused] == 0)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [0: 3])
    }

    /// Whichever slot it is, nothing of its packet is sent, and the slot of extra info is answered as ever.
    @Test(arguments: [0, 1, 2], [false, true])
    func oneBadGrantCostsTheWholePacket(bad: Int, isLarge: Bool) throws {
        let fixture = try Fixture()
        if isLarge {
            fixture.front.send(tcp(2946), .checksumBlank, large, pieces: 1000)
        } else {
            fixture.front.send(frame(3000), pieces: 1000)
        }
        fixture.front.alterTransmit(bad > 0 && isLarge ? bad + 1 : bad) { $0.gref = 2000 }
        fixture.front.send(frame(2500, 1), pieces: 1000)
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.sent()?.frame == frame(2500, 1))
        #expect(fixture.sent() == nil)
        #expect(fixture[.grantRefused] == 1 && fixture[.transmittedPackets] == 1)
        try fixture.front.reap()
        #expect(fixture.front.statuses == (isLarge ? [-1: 3, 1: 1, 0: 3] : [-1: 3, 0: 3]))
    }

    // MARK: receive buffers

    /// Not granted, beyond the grant table, and a page that the guest may read only.
    @Test func aBadReceiveBufferCostsItsFrame() throws {
        let fixture = try Fixture()
        let (page, reference) = (try fixture.guest.allocateFrames(1), try fixture.guest.allocateReferences(1))
        fixture.guest.grants.grant(reference, frame: page, to: DomainID(0), readOnly: true)
        fixture.front.alterReceive(1) { $0.gref = 2000 }
        fixture.front.alterReceive(2) { $0.gref = .max }
        fixture.front.alterReceive(4) { $0.gref = reference }
        for seed in 0..<6 { fixture.offer(frame(100, seed)) }
        fixture.settle()
        let taken = try fixture.front.takeUnchecked()
        #expect(taken.map(\.response.status) == [100, -1, -1, 100, -1, 100])
        #expect(taken.map(\.response.id) == [0, 1, 2, 3, 4, 5])
        for seed in [0, 3, 5] where seed < taken.count { #expect(taken[seed].page.starts(with: frame(100, seed))) }
        #expect(fixture[.receiveGrantRefused] == 3 && fixture[.receivedPackets] == 3)
        // One of the guest's pages, which live as long as the fixture.
        let memory = try unsafe #require(fixture.guest.memory(ofFrame: page))
        #expect(unsafe memory.load(as: UInt64.self) == 0, "a page to be read only was not written to")
        fixture.offer(frame(100, 9))
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [frame(100, 9)])
        #expect(fixture.queue.condition == .running)
    }

    @Test func aBadBufferInTheMiddleIsItsOwnSlots() throws {
        let fixture = try Fixture()
        fixture.front.alterReceive(1) { $0.gref = 2000 }
        fixture.offer(frame(9000))
        fixture.settle()
        let taken = try fixture.front.takeUnchecked()
        #expect(taken.map(\.response.status) == [4096, -1, 808])
        let more = ReceiveFlags.moreData.rawValue
        #expect(taken.map(\.response.flags) == [more, more, 0], "the frontend must know where the packet ends")
        #expect(taken.first?.page == Array(frame(9000)[..<4096]))
        #expect(taken.last?.page.starts(with: frame(9000)[8192...]) == true)
        #expect(fixture[.receiveGrantRefused] == 1)
    }

    /// Nothing is copied into the buffer that extra info takes.
    @Test func theBufferOfExtraInfoNeedsNoGrant() throws {
        let fixture = try Fixture()
        fixture.front.alterReceive(1) { $0.gref = 2000 }
        fixture.offer(tcp(2000), largeHeader)
        fixture.settle()
        let taken = try fixture.front.take()
        #expect(taken.map(\.bytes) == [tcp(2000)] && taken.first?.segmentation == large)
        #expect(fixture[.receiveGrantRefused] == 0)
    }

    /// Numbers are the frontend's own business: any, also the same twice.
    @Test func identifiersAreEchoed() throws {
        let fixture = try Fixture()
        let identifiers: [UInt16] = [0xFFFF, 7, 7, 0, 0x8000, 7]
        for (slot, id) in identifiers.enumerated() { fixture.front.alterReceive(slot) { $0.id = id } }
        for seed in 0..<6 { fixture.offer(frame(100, seed)) }
        fixture.settle()
        let taken = try fixture.front.takeUnchecked()
        #expect(taken.map(\.response.id) == identifiers)
        #expect(taken.map { Array($0.page[..<100]) } == (0..<6).map { frame(100, $0) })
    }

    // MARK: frames that are not what the flags say

    static let misnamed: [(name: String, frame: [UInt8], flags: TransmitFlags, segmentation: Segmentation?)] = [
        ("UDP", altered(tcp(1000), [23: 17]), .checksumBlank, Segmentation(.tcpV4, size: 500)),
        ("ARP", altered(tcp(1000), [13: 6]), .checksumBlank, Segmentation(.tcpV4, size: 500)),
        ("ARP, sum not asked for", altered(tcp(1000), [13: 6]), [], Segmentation(.tcpV4, size: 500)),
        ("IPv4 as IPv6", tcp(1000), .checksumBlank, Segmentation(.tcpV6, size: 500)),
        (
            "a TCP header that is cut", altered(tcp(1000), [16: 0, 17: 39]), .checksumBlank,
            Segmentation(.tcpV4, size: 5)
        ),
        ("TCP options that are cut", altered(tcp(20), [46: 0xF0]), .checksumBlank, Segmentation(.tcpV4, size: 5)),
        ("an IP packet longer than its frame", altered(tcp(100), [17: 141]), .checksumBlank, nil),
        ("a first fragment", altered(tcp(100), [20: 0x20]), .checksumBlank, nil),
        ("a later fragment", altered(tcp(100), [20: 0, 21: 1]), .checksumBlank, nil),
    ]

    @Test(arguments: misnamed)
    func whatIsNotUnderstoodIsRefused(
        name: String, bytes: [UInt8], flags: TransmitFlags, segmentation: Segmentation?
    ) throws {
        let fixture = try Fixture()
        fixture.front.send(bytes, flags, segmentation)
        fixture.front.send(tcp(1000), .checksumBlank, Segmentation(.tcpV4, size: 500))
        fixture.front.publish()
        fixture.settle()
        #expect(fixture[.frameRefused] == 1 && fixture[.transmittedPackets] == 1)
        #expect(fixture.sent()?.frame.count == 1054, "the other one")
        #expect(fixture.sent() == nil && fixture.queue.condition == .running)
        try fixture.front.reap()
        #expect(fixture.front.statuses == [-1: 1, 0: 1, 1: segmentation == nil ? 1 : 2])
    }

    // MARK: one receive buffer that is left

    /// A frame of two slots, for its length or its extra info.
    static let twoSlots: [(frame: [UInt8], header: VirtioHeader)] = [
        (frame(4097), VirtioHeader()), (tcp(2000), largeHeader),
    ]

    /// All receive buffers but one are used up.
    private func withOneBuffer() throws -> Fixture {
        let fixture = try Fixture()
        for index in 0..<255 {
            fixture.offer(frame(60, index))
            fixture.settle()
        }
        #expect(fixture[.receivedPackets] == 255)
        return fixture
    }

    /// XSA-392: a guest that leaves one slot must neither keep a processor busy nor lose the frame.
    @Test(arguments: twoSlots)
    func oneBufferTooFewIsWaitedFor(bytes: [UInt8], header: VirtioHeader) throws {
        let fixture = try withOneBuffer()
        fixture.offer(bytes, header)
        fixture.settle()
        let turns = fixture[.turns]
        for _ in 0..<10 { #expect(!fixture.queue.turn()) }
        #expect(fixture[.turns] == turns && fixture[.receivedPackets] == 255)
        #expect(fixture.queue.lacksBuffers && !fixture.queue.canDeliver)
        #expect(fixture.queue.arm(), "it may sleep, whatever is there")
        #expect(try fixture.front.take().count == 255)
        #expect(!fixture.queue.arm(), "there are buffers now")
        fixture.settle()
        #expect(try fixture.front.take().map(\.bytes) == [bytes])
        #expect(!fixture.queue.lacksBuffers && fixture.queue.canDeliver)
    }

    @Test(arguments: twoSlots)
    func whatOneBufferIsTooFewForCanBeThrownAway(bytes: [UInt8], header: VirtioHeader) throws {
        let fixture = try withOneBuffer()
        fixture.offer(bytes, header)
        fixture.settle()
        #expect(fixture.queue.discardBacklog() == 1 && fixture[.expired] == 1)
        #expect(!fixture.queue.lacksBuffers && fixture.queue.canDeliver)
        fixture.offer(frame(100))
        fixture.settle()
        let taken = try fixture.front.take()
        #expect(taken.count == 256 && taken.last?.bytes == frame(100), "what fits takes the last buffer")
    }

    // MARK: broken rules

    typealias Slot = netif_tx_request_wire

    static func slot(_ size: UInt16, _ flags: TransmitFlags = [], offset: UInt16 = 0) -> Slot {
        Slot(gref: 9, offset: offset, flags: flags.rawValue, id: 3, size: size)
    }

    static func extra(_ type: UInt8, more: Bool = false, size: UInt16 = 1448, kind: UInt16 = 1) -> Slot {
        Slot(
            gref: UInt32(type) | (more ? 1 << 8 : 0) | UInt32(size) << 16, offset: kind, flags: 0, id: 0, size: 0)
    }

    /// All of TransmitPacketTests.brokenRulesAreNamed.
    static let brokenRules: [(slots: [Slot], violation: NetViolation)] = [
        ([slot(100, .moreData)], .chainWithoutEnd),
        ([slot(100, .extraInfo)], .chainWithoutEnd),
        ([slot(100, .extraInfo), extra(1, more: true)], .chainWithoutEnd),
        ([slot(100, .extraInfo), extra(0)], .unknownExtra),
        ([slot(100, .extraInfo), extra(5)], .unknownExtra),
        ([slot(100, .extraInfo), extra(1, more: true), extra(1)], .repeatedExtra),
        ([slot(100, .extraInfo), extra(2, more: true), extra(3)], .repeatedExtra),
        ([slot(100, .extraInfo)] + Array(repeating: extra(4, more: true), count: 8), .repeatedExtra),
        ([slot(100, .extraInfo), extra(1, size: 0)], .segmentOfNothing),
        ([slot(100, .extraInfo), extra(1, kind: 3)], .unknownSegmentation),
        ([slot(100, .extraInfo), extra(1, kind: 0)], .unknownSegmentation),
        ([slot(4097)], .beyondPage),
        ([slot(100, offset: 3997)], .beyondPage),
        ([slot(200, .moreData), slot(100, offset: 3997)], .beyondPage),
        (Array(repeating: slot(22, .moreData), count: 21) + [slot(1)], .tooManySlots),
        (Array(repeating: slot(60_000, .moreData), count: 256), .beyondPage),
    ]

    @Test(arguments: brokenRules)
    func aBrokenRuleStopsBothDirections(slots: [Slot], violation: NetViolation) throws {
        let fixture = try Fixture()
        for slot in slots { fixture.front.put(slot, nil) }
        fixture.front.publish()
        fixture.settle()
        #expect(fixture.queue.condition == .violated(violation))
        if fixture.front.room > 0 { fixture.front.send(frame(100)) }
        fixture.front.publish()
        fixture.offer(frame(100))
        for _ in 0..<3 { #expect(!fixture.queue.turn()) }
        #expect(fixture.queue.arm() && !fixture.queue.canDeliver && !fixture.queue.lacksBuffers)
        #expect(fixture.sent() == nil)
        #expect(try fixture.front.take().isEmpty)
        try fixture.front.reap()
        #expect(fixture.front.statuses.isEmpty && fixture[.grantCopies] == 0 && fixture[.eventsSent] == 0)
    }
}

private let large = Segmentation(.tcpV4, size: 1448)

/// Of a frame that `tcp` makes, to be cut as `large` says.
private let largeHeader: VirtioHeader = {
    var header = VirtioHeader()
    header.flags = VirtioHeader.needsChecksum
    header.segmentation = VirtioHeader.tcpV4
    header.segmentSize = 1448
    (header.checksumStart, header.checksumOffset) = (34, 16)
    return header
}()

private func altered(_ frame: [UInt8], _ changes: [Int: UInt8]) -> [UInt8] {
    var frame = frame
    for (index, byte) in changes { frame[index] = byte }
    return frame
}

/// A guest that overwrites a whole ring when its pages are copied for the first time: all requests of that turn have been
/// read, and none of their responses is written yet. Once, because later it would spoil its own responses.
///
/// Safe because the rings' mappings live as long as the queue, and nobody else calls `copy`.
@safe private final class OverwritingGrants: GrantTable {
    private let table: any GrantTable
    /// The rings in the order in which a queue maps them: from the guest, and to the guest.
    private var rings: [UnsafeMutableRawPointer] = unsafe []
    private var isDone = [false, false]

    init(_ table: any GrantTable) { self.table = table }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        let mapping = try table.map(references, of: domain, writable: writable)
        // Mapped for as long as the queue lives.
        unsafe rings.append(mapping.base)
        return mapping
    }

    // The table's own mapping: see `map`.
    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) { unsafe table.unmap(base, pages: pages) }

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        overwrite(direction)
        // As the caller has them.
        return unsafe table.copy(segments, count: count, direction)
    }

    private func overwrite(_ direction: CopyDirection) {
        let ring = direction == .fromGuest ? 0 : 1
        guard !isDone[ring] else { return }
        isDone[ring] = true
        let indices = Int(XEN_RING_ENTRIES)
        // Each ring is one page, and its slots are what follows the indices.
        unsafe (rings[ring] + indices).initializeMemory(
            as: UInt8.self, repeating: 0xFF, count: Int(XEN_PAGE_SIZE_BYTES) - indices)
    }
}

/// Has the guest do something while its pages are written to.
private final class ClaimingGrants: GrantTable {
    var table: (any GrantTable)?
    var claim: () -> Void = {}

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        guard let table else { throw Fault("map without a table", errno: 5) }
        return try table.map(references, of: domain, writable: writable)
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) { unsafe table?.unmap(base, pages: pages) }

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        if direction == .toGuest { claim() }
        // The caller's segments, handed on.
        return unsafe table?.copy(segments, count: count, direction) ?? count
    }
}
