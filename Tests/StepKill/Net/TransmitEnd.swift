import CXen
import Loopback
import NetFrames
import XenWire

/// A netfront's transmit ring, and the host that gets its packets.
struct TransmitEnd {
    private struct Packet {
        let serial: UInt32
        /// Bytes of the frame that the host gets; 0: none.
        let size: Int
        let cells: [Int]
        /// Behind its last slot.
        let end: UInt32
    }

    private struct Slot {
        let id: UInt16
        let status: NetStatus
    }

    private enum Kind { case plain, scattered, multicast, short, refused }

    private let region: NetRegion
    private var ring: NetSharedRing { region.ring(.transmit) }
    /// Those of which not all is answered, and the slots that are not.
    private var packets: [Packet] = []
    private var slots: [Slot] = []
    private var freeCells = Array(0..<NetRegion.cells)
    private var produced = NetRegion.firstIndex
    private var consumed = NetRegion.firstIndex
    private var serial: UInt32 = 0
    /// The host gets no packet before this one.
    private var nextFrame: UInt32 = 0
    private(set) var answered = 0

    /// As many as a packet may have.
    private static let mostPieces = 4

    init(_ region: NetRegion) { self.region = region }

    // MARK: Requests

    mutating func put(_ random: inout SeededRandom) {
        guard freeCells.count >= Self.mostPieces else { return }
        let kind = Self.kind(random.below(20))
        let sizes = Self.sizes(kind, &random)
        let size = sizes.reduce(0, +)
        let cells = sizes.map { _ in freeCells.removeLast() }
        fill(cells, sizes, Frame.bytes(serial, size))
        for (place, cell) in cells.enumerated() {
            var flags: TransmitFlags = place + 1 < cells.count ? .moreData : []
            if kind == .multicast { flags = .extraInfo }
            let status: NetStatus = kind == .short || kind == .refused ? .error : .okay
            let reference = kind == .refused ? 1 : NetRegion.firstCell + UInt32(cell)
            put(reference, flags, size: place == 0 ? size : sizes[place], status)
        }
        if kind == .multicast { putChange(joins: serial % 2 == 0) }
        let isSent = kind == .plain || kind == .scattered
        packets.append(Packet(serial: serial, size: isSent ? size : 0, cells: cells, end: produced))
        serial += 1
    }

    func publish() { ring.showRequests(produced) }

    private static func kind(_ number: Int) -> Kind {
        switch number {
        case 0..<12: .plain
        case 12..<16: .scattered
        case 16, 17: .multicast
        case 18: .short
        default: .refused
        }
    }

    /// Bytes of each piece. Only the first has to hold an Ethernet header.
    private static func sizes(_ kind: Kind, _ random: inout SeededRandom) -> [Int] {
        switch kind {
        case .plain, .refused: [60 + random.below(200)]
        case .scattered: [20 + random.below(80)] + (0...random.below(mostPieces - 1)).map { _ in random.below(200) }
        case .multicast: [0]
        case .short: [1 + random.below(13)]
        }
    }

    /// A piece begins at the beginning of its cell.
    private func fill(_ cells: [Int], _ sizes: [Int], _ frame: [UInt8]) {
        var start = 0
        for (cell, size) in zip(cells, sizes) {
            // Below a cell's size.
            unsafe region.cell(cell).copyMemory(from: Array(frame[start..<start + size]), byteCount: size)
            start += size
        }
    }

    private mutating func put(_ reference: UInt32, _ flags: TransmitFlags, size: Int, _ status: NetStatus) {
        let id = nextID
        // Twelve bytes of a slot of twelve.
        unsafe ring.slot(produced).storeBytes(
            of: netif_tx_request_wire(
                gref: reference, offset: 0, flags: flags.rawValue, id: id, size: UInt16(size)),
            as: netif_tx_request_wire.self)
        slots.append(Slot(id: id, status: status))
        produced &+= 1
    }

    /// What is to be done to the multicast list, in a slot of its own, whose number lies where a request's does.
    private mutating func putChange(joins: Bool) {
        let id = nextID
        let slot = unsafe ring.slot(produced)
        let extra = netif_extra_wire(type: joins ? 2 : 3, flags: 0, body: (1, 0, 0x5e, 0, 0, 1))
        // Eight bytes and two of a slot of twelve.
        unsafe slot.storeBytes(of: extra, as: netif_extra_wire.self)
        unsafe slot.storeBytes(of: id, toByteOffset: 8, as: UInt16.self)
        slots.append(Slot(id: id, status: .null))
        produced &+= 1
    }

    /// Not the same again soon, so that another request's answer is noticed.
    private var nextID: UInt16 { UInt16(truncatingIfNeeded: produced) }

    // MARK: The host

    /// Looks at what the host got: packets in their order, whole, and none of them twice.
    mutating func hear() throws {
        for sent in region.tap.takeSent() {
            guard let packet = packets.first(where: { $0.serial >= nextFrame && $0.size > 0 }) else {
                throw Failure("a packet is sent that the guest has not put up, or not again")
            }
            guard sent[...].prefix(VirtioHeader.size).allSatisfy({ $0 == 0 }),
                sent.dropFirst(VirtioHeader.size).elementsEqual(Frame.bytes(packet.serial, packet.size))
            else { throw Failure("what is sent is not packet \(packet.serial)") }
            nextFrame = packet.serial + 1
        }
    }

    /// Whatever was not answered may be sent once more, in its order; what was, not.
    mutating func noteDeath() throws {
        try hear()
        let published = ring.published
        for packet in packets {
            guard Int32(bitPattern: packet.end &- published) <= 0 else {
                nextFrame = min(nextFrame, packet.serial)
                return
            }
            try checkSent(packet)
        }
    }

    private func checkSent(_ packet: Packet) throws {
        guard packet.size == 0 || packet.serial < nextFrame else {
            throw Failure("packet \(packet.serial) is answered and was not sent")
        }
    }

    // MARK: Answers

    mutating func takeAnswers() throws {
        repeat {
            let published = ring.published
            guard published &- consumed <= produced &- consumed else { throw Failure("rsp_prod makes no sense") }
            try hear()
            while consumed != published { try takeAnswer() }
            ring.askForEvent(published &+ 1)
        } while ring.published != consumed
    }

    private mutating func takeAnswer() throws {
        // A response, at the beginning of the slot.
        let response = unsafe ring.slot(consumed).load(as: netif_tx_response_wire.self)
        let slot = slots.removeFirst()
        consumed &+= 1
        guard response.id == slot.id, response.status == slot.status.rawValue else {
            throw Failure(
                "request \(slot.id) is answered as \(response.id) with \(response.status), and not \(slot.status)")
        }
        answered += 1
        guard let packet = packets.first, packet.end == consumed else { return }
        try checkSent(packet)
        freeCells += packet.cells
        packets.removeFirst()
    }

    func finish() throws {
        guard slots.isEmpty else {
            let isSilent = ring.published != consumed
            throw Failure(isSilent ? "answers that the guest does not hear of" : "\(slots.count) slots without answer")
        }
    }
}
