internal import CXen
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import XenWire

/// A netfront's receive ring for speed: buffers are granted and ended one by one as Linux does it, and every response is checked.
@safe struct ReceiveLane: ~Copyable {
    let port: GuestPort
    let ringReference: GrantReference
    private let pages: GrantedFrames
    private let grants: GuestGrants
    private let backend: DomainID
    private var ring: FrontRing
    /// Responses that were taken from the ring, and what of them was looked at.
    private let responses: FixedTable<UInt64>
    private let endings: FixedTable<GuestGrants.Ending>
    private var taken = 0
    private var position = 0
    private var firstSlot: UInt32 = 0
    private(set) var notifications: UInt64 = 0

    /// A packet that was delivered.
    struct Frame {
        var bytes = 0
        var slots = 0
        /// Its first response among those that were taken.
        fileprivate var position = 0
        var flags: ReceiveFlags = []
        var segmentation: Segmentation?
    }

    init(_ domain: GuestDomain, backend: DomainID) throws(Fault) {
        let pages = try GrantedFrames(1 + NetRing.slots, in: domain)
        port = try domain.openPort(for: backend)
        // The first page.
        unsafe ring = FrontRing(initialising: pages.base, entries: NetRing.slots, entrySize: NetRing.receiveSlot)
        ringReference = GrantReference(pages.firstReference)
        grants = domain.grants
        grants.grant(pages.firstReference, frame: pages.firstFrame, to: backend, readOnly: false)
        self.pages = pages
        self.backend = backend
        responses = FixedTable(repeating: 0, count: Int(NetRing.slots))
        endings = FixedTable(repeating: GuestGrants.Ending(0), count: Int(NetRing.slots))
    }

    /// Buffers that wait for frames.
    var buffers: Int { Int(ring.size &- ring.free) }

    /// Puts up buffers until so many wait, as far as the ring holds them.
    mutating func fill(upTo count: Int) {
        var left = min(count, Int(NetRing.slots)) &- buffers
        while left > 0 {
            putBuffer()
            left &-= 1
        }
        guard ring.publish() else { return }
        port.channel.notify()
        notifications &+= 1
    }

    private mutating func putBuffer() {
        let slot = ring.produced & (NetRing.slots &- 1)
        grants.grant(
            pages.firstReference &+ 1 &+ slot, frame: pages.firstFrame &+ 1 &+ slot, to: backend, readOnly: false)
        // Eight bytes of a slot of eight.
        unsafe ring.requestSlot().storeBytes(
            of: netif_rx_request_wire(
                id: UInt16(truncatingIfNeeded: slot), pad: 0, gref: pages.firstReference &+ 1 &+ slot),
            as: netif_rx_request_wire.self)
    }

    /// Takes all responses that there are, for `next`; true if there are any.
    mutating func collect() throws(NetMisbehaviour) -> Bool {
        guard let waiting = ring.waiting() else { throw .responseOverrun }
        taken = Int(waiting)
        position = 0
        firstSlot = ring.consumed
        for index in 0..<taken {
            let slot = ring.consumed & (NetRing.slots &- 1)
            endings[index] = GuestGrants.Ending(pages.firstReference &+ 1 &+ slot)
            responses[index] = unsafe ring.takeSlot().load(as: UInt64.self)
        }
        // As many as were filled in.
        guard unsafe grants.end(endings.pointer, count: taken) == 0 else {
            throw .grantInUse(GrantReference(endings[0].reference))
        }
        return taken > 0
    }

    /// The next packet among the responses that were collected; nil behind the last.
    mutating func next() throws(NetMisbehaviour) -> Frame? {
        guard position < taken else { return nil }
        var frame = Frame(position: position)
        var flags = try takeData(&frame)
        let first = flags
        frame.flags = ReceiveFlags(rawValue: first)
        if flags & ReceiveFlags.extraInfo.rawValue != 0 { try takeExtra(&frame) }
        while flags & ReceiveFlags.moreData.rawValue != 0 { flags = try takeData(&frame) }
        let both = ReceiveFlags.checksumBlank.rawValue | ReceiveFlags.dataValidated.rawValue
        let blank = first & ReceiveFlags.checksumBlank.rawValue != 0
        guard first & both == both || !(blank || frame.segmentation != nil) else { throw .flagsDoNotFit(first) }
        return frame
    }

    private mutating func takeData(_ frame: inout Frame) throws(NetMisbehaviour) -> UInt16 {
        guard position < taken else { throw .packetWithoutEnd }
        let word = responses[position]
        let id = UInt16(truncatingIfNeeded: word)
        guard UInt32(id) == slot(position) else { throw .wrongSlot(id) }
        let (offset, status) = (Int(UInt16(truncatingIfNeeded: word >> 16)), Int16(truncatingIfNeeded: word >> 48))
        guard status >= 0, offset &+ Int(status) <= 4096 else { throw .beyondPage(status) }
        position &+= 1
        frame.bytes &+= Int(status)
        frame.slots &+= 1
        return UInt16(truncatingIfNeeded: word >> 32)
    }

    private mutating func takeExtra(_ frame: inout Frame) throws(NetMisbehaviour) {
        guard position < taken else { throw .packetWithoutEnd }
        let word = responses[position]
        position &+= 1
        frame.slots &+= 1
        let (kind, size) = (
            SegmentationKind(rawValue: UInt8(truncatingIfNeeded: word >> 32)), UInt16(truncatingIfNeeded: word >> 16)
        )
        guard word & 0xFFFF == 1, let kind, size > 0 else { throw .badExtra(UInt8(truncatingIfNeeded: word)) }
        frame.segmentation = Segmentation(kind, size: size)
    }

    private func slot(_ position: Int) -> UInt32 {
        (firstSlot &+ UInt32(truncatingIfNeeded: position)) & (NetRing.slots &- 1)
    }

    /// Copies a packet that `next` has returned, before the next `fill`.
    func copy(_ frame: Frame, to memory: UnsafeMutableRawPointer) {
        var done = 0
        for index in frame.position..<frame.position + frame.slots {
            if frame.segmentation != nil, index == frame.position + 1 { continue }
            let word = responses[index]
            let length = Int(UInt16(truncatingIfNeeded: word >> 48))
            let page = unsafe pages.base + Int(1 + slot(index)) << 12
            // Within the page, by `takeData`; the caller's memory holds the frame's bytes.
            unsafe memcpy(memory + done, page + Int(UInt16(truncatingIfNeeded: word >> 16)), length)
            done += length
        }
    }

    /// Asks for an event at the next response: true if one may wait for it.
    func arm() -> Bool { ring.arm() }
}
