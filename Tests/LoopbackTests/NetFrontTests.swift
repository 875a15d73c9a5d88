import CXen
import Loopback
import SharedRing
import Testing
import XenWire

/// A netfront in domain 5 and the other end of its rings, answered by hand.
private final class Wire {
    let front: NetFrontQueue
    private let platform = ModelPlatform()
    private let table: any GrantTable
    /// Keep the rings' pages mapped.
    private let transmitMapping: GrantMapping
    private let receiveMapping: GrantMapping
    private var transmit: BackRing
    private var receive: BackRing
    /// A page that a backend holds on to.
    private var held: GrantMapping?

    init() throws {
        let guest = try platform.createDomain(DomainID(5), pages: 2048, references: 2048)
        front = try NetFrontQueue(guest, backend: DomainID(0), isSplit: false)
        table = platform.openGrantTable()
        let first = try table.map([front.references.transmit], of: DomainID(5), writable: true)
        let second = try table.map([front.references.receive], of: DomainID(5), writable: true)
        // One page each, which lives as long as this value.
        unsafe transmit = BackRing(base: first.base, entries: NetRing.slots, entrySize: NetRing.transmitSlot)
        unsafe receive = BackRing(base: second.base, entries: NetRing.slots, entrySize: NetRing.receiveSlot)
        transmitMapping = consume first
        receiveMapping = consume second
        front.send([UInt8](repeating: 1, count: 100), [], Segmentation(.tcpV4, size: 50))
        front.publish()
    }

    /// Answers a transmit request. The frontend has one packet on its way: a slot of data, 0, and one of extra info, 1.
    func answer(_ id: UInt16, _ status: Int16) {
        // Four bytes of a slot of twelve.
        unsafe transmit.responseSlot().storeBytes(
            of: UInt32(id) | UInt32(UInt16(bitPattern: status)) << 16, as: UInt32.self)
        _ = transmit.publish()
    }

    /// Answers the next receive request, or another one if `id` says so.
    func deliver(_ flags: ReceiveFlags = [], status: Int16 = 100, offset: UInt16 = 0, id: UInt16? = nil) {
        let number = id ?? UInt16(receive.produced % NetRing.slots)
        let response = netif_rx_response_wire(id: number, offset: offset, flags: flags.rawValue, status: status)
        // Eight bytes of a slot of eight.
        unsafe receive.responseSlot().storeBytes(of: response, as: netif_rx_response_wire.self)
        _ = receive.publish()
    }

    /// Extra info in the next receive slot: its eight bytes.
    func deliver(extra: UInt64) {
        // As above.
        unsafe receive.responseSlot().storeBytes(of: extra, as: UInt64.self)
        _ = receive.publish()
    }

    /// Maps a page and keeps it; `index` counts as the frontend's references do.
    func hold(_ index: UInt32) throws -> GrantReference {
        let reference = GrantReference(front.references.transmit.rawValue + index)
        held = try table.map([reference], of: DomainID(5), writable: false)
        return reference
    }

    /// What the frontend says of either ring's responses.
    func misbehaviour() -> NetMisbehaviour? {
        do {
            try front.reap()
            _ = try front.take()
            return nil
        } catch {
            return error
        }
    }
}

private typealias Act = @Sendable (Wire) -> Void

@Suite struct NetFrontTests {
    /// All cases of `NetMisbehaviour`, and what is right as a control.
    @Test func aBackendThatMisbehavesIsFoundOut() throws {
        for (index, (expected, act)) in (right + wrongAnswers + wrongDeliveries + wrongExtras).enumerated() {
            let wire = try Wire()
            act(wire)
            #expect(wire.misbehaviour() == expected, "number \(index)")
        }
    }

    @Test func headroomIsWhatWasAskedFor() throws {
        for (index, (expected, act)) in wrongHeadrooms.enumerated() {
            let wire = try Wire()
            wire.front.headroom = 256
            act(wire)
            #expect(wire.misbehaviour() == expected, "number \(index)")
        }
    }

    /// The last page that was freed carries the data; the first receive buffer follows them all.
    @Test(arguments: [false, true]) func aPageMustBeLetGoBeforeTheAnswer(isDelivery: Bool) throws {
        let wire = try Wire()
        let reference = try wire.hold(isDelivery ? 258 : 257)
        if isDelivery { wire.deliver() } else { wire.answer(0, 0) }
        #expect(wire.misbehaviour() == .grantInUse(reference))
    }

    @Test func moreResponsesThanBuffersAreFoundOut() throws {
        let wire = try Wire()
        for _ in 0..<257 { wire.deliver() }
        #expect(wire.misbehaviour() == .responseOverrun)
    }
}

private let segmented: UInt64 = ReceiveExtra.segmentation(Segmentation(.tcpV4, size: 50)).word(isLast: true)
private let unfinished: ReceiveFlags = [.checksumBlank, .dataValidated]

private func answers(_ list: [(UInt16, Int16)]) -> Act {
    { wire in for (id, status) in list { wire.answer(id, status) } }
}

/// A packet of a slot of data and slots of extra info.
private func packet(_ extras: [UInt64], _ flags: ReceiveFlags = unfinished) -> Act {
    { wire in
        wire.deliver(flags.union(.extraInfo))
        for extra in extras { wire.deliver(extra: extra) }
    }
}

private let right: [(NetMisbehaviour?, Act)] = [
    (nil, { _ in }),
    (nil, answers([(0, 0), (1, 1)])),
    (nil, answers([(0, -1), (1, 1)])),
    (nil, { $0.deliver(status: 4096) }),
    (nil, packet([segmented])),
    (
        nil,
        {
            $0.deliver(.moreData)
            $0.deliver()
        }
    ),
]

private let wrongAnswers: [(NetMisbehaviour?, Act)] = [
    (.responseOverrun, answers([(0, 0), (1, 1), (0, 0)])),
    (.unknownIdentifier(1), answers([(1, 1), (0, 0)])),
    (.unknownIdentifier(7), answers([(7, 0)])),
    (.unknownIdentifier(0), answers([(0, 0), (0, 1)])),
    (.wrongStatus(0, 1), answers([(0, 1)])),
    (.wrongStatus(1, 0), answers([(0, 0), (1, 0)])),
    (.wrongStatus(1, -1), answers([(0, -1), (1, -1)])),
]

private let wrongDeliveries: [(NetMisbehaviour?, Act)] = [
    (.wrongSlot(1), { $0.deliver(id: 1) }),
    (.beyondPage(4097), { $0.deliver(status: 4097) }),
    (.beyondPage(4096), { $0.deliver(status: 4096, offset: 1) }),
    (.beyondPage(-1), { $0.deliver(status: -1) }),
    (.packetWithoutEnd, { $0.deliver(.moreData) }),
    (.packetWithoutEnd, { $0.deliver(.extraInfo) }),
    (.packetWithoutEnd, packet([segmented | 1 << 8])),
    (.packetWithoutEnd, packet([segmented], unfinished.union(.moreData))),
    (
        .packetWithoutEnd,
        {
            $0.deliver(.moreData)
            $0.deliver(.extraInfo)
            $0.deliver(extra: segmented)
        }
    ),
    (.wrongHeadroom(8), { $0.deliver(offset: 8) }),
    (.flagsDoNotFit(2), { $0.deliver(.checksumBlank) }),
    (.flagsDoNotFit(0), packet([segmented], [])),
    (.flagsDoNotFit(1), packet([segmented], .dataValidated)),
]

private let wrongExtras: [(NetMisbehaviour?, Act)] = [
    (.badExtra(0), packet([0])),
    (.badExtra(9), packet([9])),
    (.badExtra(2), packet([2])),
    (.badExtra(1), packet([segmented | 1 << 8, segmented])),
    (.badExtra(1), packet([segmented | 2 << 8])),
    (.badExtra(1), packet([1 | 1 << 32])),
    (.badExtra(1), packet([1 | 50 << 16])),
    (.badExtra(1), packet([1 | 50 << 16 | 3 << 32])),
    (.badExtra(1), packet([segmented | 1 << 40])),
    (.badExtra(4), packet([ReceiveExtra.hash(PacketHash(.ipv4, 1)).word(isLast: true)])),
    (.badExtra(5), packet([ReceiveExtra.headroom(256).word(isLast: true)])),
]

/// Of a frontend that asked for 256 bytes.
private let wrongHeadrooms: [(NetMisbehaviour?, Act)] = [
    (nil, headroom(said: 256, offset: 256)),
    (.wrongHeadroom(0), { $0.deliver() }),
    (.wrongHeadroom(256), { $0.deliver(offset: 256) }),
    (.wrongHeadroom(0), headroom(said: 256, offset: 0)),
    (.wrongHeadroom(128), headroom(said: 128, offset: 128)),
    (.wrongHeadroom(128), headroom(said: 256, offset: 128)),
]

private func headroom(said: UInt16, offset: UInt16) -> Act {
    {
        $0.deliver(.extraInfo, offset: offset)
        $0.deliver(extra: ReceiveExtra.headroom(said).word(isLast: true))
    }
}
