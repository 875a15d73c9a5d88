internal import CXen
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import XenWire

/// A netfront's transmit ring for speed: pages are granted and ended one by one as Linux does it, and every response is checked.
///
/// Each frame on its way has memory of its own, used in turn, so that what is put there once need not be written again.
@safe struct TransmitLane: ~Copyable {
    let port: GuestPort
    let ringReference: GrantReference
    /// Frames that can be on their way.
    let capacity: Int
    /// Bytes of the longest frame, in whole pages.
    private let longest: Int
    private let pages: GrantedFrames
    private let grants: GuestGrants
    private let backend: DomainID
    private let pagesPerFrame: Int
    private var ring: FrontRing
    /// What each slot of the ring holds.
    private let slots: FixedTable<TransmitSlot>
    private let endings: FixedTable<GuestGrants.Ending>
    /// Frames that were put, and those that were answered.
    private(set) var put: UInt64 = 0
    private(set) var answered: UInt64 = 0
    /// Answers other than "sent".
    private(set) var refused: UInt64 = 0
    private(set) var notifications: UInt64 = 0

    /// - Parameters:
    ///   - frames: on their way at most; fewer if the ring does not hold so many.
    ///   - longest: bytes of the longest frame.
    init(_ domain: GuestDomain, backend: DomainID, frames: Int, longest: Int) throws(Fault) {
        pagesPerFrame = (longest + 4095) / 4096
        self.longest = pagesPerFrame << 12
        capacity = max(1, frames)
        let pages = try GrantedFrames(UInt32(1 + capacity * pagesPerFrame), in: domain)
        port = try domain.openPort(for: backend)
        // The first page.
        unsafe ring = FrontRing(initialising: pages.base, entries: NetRing.slots, entrySize: NetRing.transmitSlot)
        ringReference = GrantReference(pages.firstReference)
        grants = domain.grants
        grants.grant(pages.firstReference, frame: pages.firstFrame, to: backend, readOnly: false)
        self.pages = pages
        self.backend = backend
        slots = FixedTable(repeating: TransmitSlot(), count: Int(NetRing.slots))
        endings = FixedTable(repeating: GuestGrants.Ending(0), count: Int(NetRing.slots))
    }

    /// Frames on their way.
    var inFlight: Int { @_noLocks get { Int(truncatingIfNeeded: put &- answered) } }

    /// There is room for a frame, however long, and for its extra info.
    var canSend: Bool { @_noLocks get { inFlight < capacity && Int(ring.free) > pagesPerFrame } }

    /// The memory of the frame that is put next, for `longest` bytes; frames follow each other.
    var nextFrame: UnsafeMutableRawPointer { unsafe memory(Int(put % UInt64(capacity))) }

    /// The memory of one of `capacity` frames.
    func memory(_ frame: Int) -> UnsafeMutableRawPointer {
        // Behind the ring's page.
        unsafe pages.base + (1 + frame * pagesPerFrame) << 12
    }

    /// Puts `nextFrame` on the ring; the caller has seen that `canSend`.
    mutating func putFrame(_ bytes: Int, _ flags: TransmitFlags, _ segmentation: Segmentation?) {
        var page = UInt32(1 + Int(put % UInt64(capacity)) * pagesPerFrame)
        var left = bytes
        repeat {
            let isFirst = left == bytes
            let length = min(4096, left)
            var slotFlags = left > length ? TransmitFlags.moreData.rawValue : 0
            if isFirst { slotFlags |= flags.rawValue | (segmentation == nil ? 0 : Self.segmented) }
            putData(page, slotFlags, size: isFirst ? bytes : length, isLast: left == length)
            if isFirst, let segmentation { putExtra(segmentation) }
            left &-= length
            page &+= 1
        } while left > 0
        put &+= 1
    }

    /// Makes what was put visible and sends the event that the backend asked for.
    mutating func publish() {
        guard ring.publish() else { return }
        port.channel.notify()
        notifications &+= 1
    }

    /// Linux' netfront says all three of a frame that is to be cut.
    private static var segmented: UInt16 {
        TransmitFlags.checksumBlank.rawValue | TransmitFlags.dataValidated.rawValue | TransmitFlags.extraInfo.rawValue
    }

    private mutating func putData(_ page: UInt32, _ flags: UInt16, size: Int, isLast: Bool) {
        let reference = pages.firstReference &+ page
        grants.grant(reference, frame: pages.firstFrame &+ page, to: backend, readOnly: true)
        let index = Int(ring.produced & (NetRing.slots &- 1))
        slots[index] = TransmitSlot(reference: reference, isExtra: false, isLast: isLast)
        // Twelve bytes of a slot of twelve.
        unsafe ring.requestSlot().storeBytes(
            of: netif_tx_request_wire(
                gref: reference, offset: 0, flags: flags, id: UInt16(truncatingIfNeeded: index),
                size: UInt16(truncatingIfNeeded: size)), as: netif_tx_request_wire.self)
    }

    private mutating func putExtra(_ segmentation: Segmentation) {
        let index = Int(ring.produced & (NetRing.slots &- 1))
        slots[index] = TransmitSlot(reference: 0, isExtra: true, isLast: false)
        let low = UInt32(1) | UInt32(segmentation.size) << 16
        unsafe ring.requestSlot().storeBytes(
            of: netif_tx_request_wire(
                gref: low, offset: UInt16(segmentation.kind.rawValue), flags: 0,
                id: UInt16(truncatingIfNeeded: index), size: 0), as: netif_tx_request_wire.self)
    }

    /// Takes the responses that there are; true if there were any.
    mutating func reap() throws(NetMisbehaviour) -> Bool {
        guard let waiting = ring.waiting() else { throw .responseOverrun }
        guard waiting > 0 else { return false }
        var ended = 0
        for _ in 0..<waiting { try take(&ended) }
        // As many as were filled in.
        guard unsafe grants.end(endings.pointer, count: ended) == 0 else {
            throw .grantInUse(GrantReference(endings[0].reference))
        }
        return true
    }

    private mutating func take(_ ended: inout Int) throws(NetMisbehaviour) {
        let index = ring.consumed & (NetRing.slots &- 1)
        let word = unsafe ring.takeSlot().load(as: UInt32.self)
        let (id, status) = (UInt16(truncatingIfNeeded: word), Int16(truncatingIfNeeded: word >> 16))
        let slot = slots[Int(index)]
        // Answers come in the requests' order, extra info's among them.
        guard id == UInt16(truncatingIfNeeded: index) else { throw .unknownIdentifier(id) }
        guard (status == NetStatus.null.rawValue) == slot.isExtra else { throw .wrongStatus(id, status) }
        if !slot.isExtra {
            endings[ended] = GuestGrants.Ending(slot.reference)
            ended &+= 1
        }
        guard slot.isLast else { return }
        answered &+= 1
        if status != NetStatus.okay.rawValue { refused &+= 1 }
    }

    /// Asks for an event at the next response: true if one may wait for it.
    func arm() -> Bool { ring.arm() }
}

/// What a slot of a transmit ring holds.
struct TransmitSlot: BitwiseCopyable {
    var reference: UInt32 = 0
    var isExtra = false
    /// Of its frame.
    var isLast = false
}
