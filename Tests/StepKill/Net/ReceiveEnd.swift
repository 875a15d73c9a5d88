import CXen
import Loopback
import XenWire

/// A netfront's receive ring, and the host that sends frames to it.
struct ReceiveEnd {
    private struct Slot {
        let id: UInt16
        let buffer: Int
    }

    private struct Offer {
        let serial: UInt32
        let size: Int
    }

    private let region: NetRegion
    private var ring: NetSharedRing { region.ring(.receive) }
    /// Buffers that are put up, and frames on their way.
    private var slots: [Slot] = []
    private var offers: [Offer] = []
    private var freeBuffers = Array(0..<NetRegion.buffers)
    private var produced = NetRegion.firstIndex
    private var consumed = NetRegion.firstIndex
    private var serial: UInt32 = 0
    private(set) var answered = 0

    /// More would not fit into a socket.
    private static let mostOffers = 12

    init(_ region: NetRegion) { self.region = region }

    var isIdle: Bool { offers.isEmpty }
    var hasBuffers: Bool { !freeBuffers.isEmpty }

    // MARK: Buffers and frames

    /// Puts up so many buffers, or as many as there are.
    mutating func putUp(_ count: Int) {
        for _ in 0..<min(count, freeBuffers.count) {
            let buffer = freeBuffers.removeLast()
            let id = UInt16(truncatingIfNeeded: produced)
            // What is not overwritten is noticed.
            unsafe region.buffer(buffer).initializeMemory(as: UInt8.self, repeating: 0xee, count: 4096)
            let request = netif_rx_request_wire(id: id, pad: 0, gref: NetRegion.firstBuffer + UInt32(buffer))
            // Eight bytes of a slot of eight.
            unsafe ring.slot(produced).storeBytes(of: request, as: netif_rx_request_wire.self)
            slots.append(Slot(id: id, buffer: buffer))
            produced &+= 1
        }
    }

    func publish() { ring.showRequests(produced) }

    mutating func offer(_ random: inout SeededRandom) {
        guard offers.count < Self.mostOffers else { return }
        let isLong = random.chance(perThousand: 150)
        let size = isLong ? 4097 + random.below(Frame.longest - 4096) : 60 + random.below(300)
        region.tap.offer(Frame.bytes(serial, size))
        offers.append(Offer(serial: serial, size: size))
        serial += 1
    }

    /// What the process had read and not published is lost with it, and maybe what waited to be read.
    mutating func noteDeath(dropping: Bool) {
        let waiting = dropping ? 0 : region.tap.offered
        if dropping { _ = region.tap.dropOffered() }
        let published = publishedFrames
        let end = max(published, offers.count - waiting)
        if published < end { offers.removeSubrange(published..<end) }
    }

    /// Frames that the guest has not looked at.
    private var publishedFrames: Int {
        var (index, count) = (consumed, 0)
        while index != ring.published, index != produced {
            if !response(index).flags.contains(.moreData) { count += 1 }
            index &+= 1
        }
        return min(count, offers.count)
    }

    private func response(_ index: UInt32) -> (id: UInt16, offset: Int, flags: ReceiveFlags, status: Int) {
        // Eight bytes of a slot of eight.
        let response = unsafe ring.slot(index).load(as: netif_rx_response_wire.self)
        return (response.id, Int(response.offset), ReceiveFlags(rawValue: response.flags), Int(response.status))
    }

    // MARK: Answers

    mutating func takeAnswers() throws {
        repeat {
            let published = ring.published
            guard published &- consumed <= produced &- consumed else { throw Failure("rsp_prod makes no sense") }
            while consumed != published { try takeFrame(upTo: published) }
            ring.askForEvent(published &+ 1)
        } while ring.published != consumed
    }

    /// The next one that was offered, whole.
    private mutating func takeFrame(upTo published: UInt32) throws {
        var bytes: [UInt8] = []
        var goesOn = true
        while goesOn {
            guard consumed != published else { throw Failure("a frame without its end is published") }
            goesOn = try takeSlot(&bytes).contains(.moreData)
        }
        guard !offers.isEmpty else { throw Failure("a frame that nobody has sent, or not again") }
        let offer = offers.removeFirst()
        guard bytes == Frame.bytes(offer.serial, offer.size) else {
            throw Failure("what arrives is not frame \(offer.serial), whole")
        }
    }

    private mutating func takeSlot(_ bytes: inout [UInt8]) throws -> ReceiveFlags {
        let response = response(consumed)
        let slot = slots.removeFirst()
        guard response.id == slot.id else { throw Failure("buffer \(slot.id) is answered as \(response.id)") }
        guard 1...4096 ~= response.status, response.offset + response.status <= 4096 else {
            throw Failure("status \(response.status) for buffer \(slot.id)")
        }
        // Within the buffer, by the rule above.
        unsafe bytes.append(
            contentsOf: UnsafeRawBufferPointer(
                start: region.buffer(slot.buffer) + response.offset, count: response.status))
        freeBuffers.append(slot.buffer)
        consumed &+= 1
        answered += 1
        return response.flags
    }

    func finish() throws {
        guard offers.isEmpty else {
            let isSilent = ring.published != consumed
            throw Failure(isSilent ? "frames that the guest does not hear of" : "\(offers.count) frames are lost")
        }
    }
}
