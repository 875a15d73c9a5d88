public import CXen
public import Descriptors
internal import SharedRing
public import XenWire

/// A frame that a backend delivered.
public struct DeliveredFrame: Equatable, Sendable {
    public var bytes: [UInt8]
    public var flags: ReceiveFlags
    public var segmentation: Segmentation?
    public var hash: PacketHash?

    public init(bytes: [UInt8], flags: ReceiveFlags, segmentation: Segmentation?, hash: PacketHash? = nil) {
        self.bytes = bytes
        self.flags = flags
        self.segmentation = segmentation
        self.hash = hash
    }
}

/// A rule of netfronts that a backend broke: Linux' netfront disables the interface for the first ones, Windows' asserts the
/// others.
public enum NetMisbehaviour: Error, Equatable, Sendable {
    case responseOverrun
    /// A transmit response with a number that is not in flight, or out of order.
    case unknownIdentifier(UInt16)
    /// A slot of extra info was not answered with NULL, or another one was.
    case wrongStatus(UInt16, Int16)
    /// A receive response that names another request than its slot's.
    case wrongSlot(UInt16)
    /// More bytes than a page holds.
    case beyondPage(Int16)
    /// A packet that goes on behind the last response.
    case packetWithoutEnd
    /// An extra-info slot that is none, unknown, not asked for, or there twice.
    case badExtra(UInt8)
    /// The packet does not begin where the headroom ends.
    case wrongHeadroom(UInt16)
    /// `csum_blank` without `data_validated`, or segmentation without both.
    case flagsDoNotFit(UInt16)
    /// A response came while its page was still being used.
    case grantInUse(GrantReference)
}

/// A frontend's queue pair: the loopback counterpart of a netfront, with the checks of Linux' and of Windows'. For tests and
/// demonstrations: it is not made to be fast.
public final class NetFrontQueue {
    private let domain: GuestDomain
    private let backend: DomainID
    private let pages: GrantedFrames
    private var transmit: FrontRing
    private var receive: FrontRing
    /// The same port for both, or one each.
    public let transmitPort: GuestPort
    public let receivePort: GuestPort
    /// What was put into each transmit slot, in order: its page, or nil for extra info.
    private var inFlight: [(id: UInt16, page: UInt32?)] = []
    private var freePages: [UInt32]
    /// The page behind each receive slot.
    private var buffers: [UInt32] = Array(repeating: 0, count: Int(NetRing.slots))
    private var nextIdentifier: UInt16 = 0
    /// Ends of transmitted slots, by status.
    public private(set) var statuses: [Int16: Int] = [:]
    /// What this frontend has asked for: bytes in front of packets, and hashes. Else it takes no such extra info.
    public var headroom: UInt16 = 0
    public var takesHashes = false

    private static let transmitPages: UInt32 = 256

    /// Allocates both rings and all pages, and puts up receive buffers.
    ///
    /// - Parameter index: where the rings' indices start.
    public init(_ domain: GuestDomain, backend: DomainID, isSplit: Bool, startingAt index: UInt32 = 0) throws(Fault) {
        self.domain = domain
        self.backend = backend
        let pages = try GrantedFrames(2 + Self.transmitPages + NetRing.slots, in: domain)
        // The pages are the domain's memory, which outlives the queue.
        unsafe pages.base.initializeMemory(
            as: UInt8.self, repeating: 0, count: Int(pages.count) * Int(XEN_PAGE_SIZE_BYTES))
        unsafe transmit = FrontRing(
            initialising: pages.base, entries: NetRing.slots, entrySize: NetRing.transmitSlot, startingAt: index)
        unsafe receive = FrontRing(
            initialising: pages.base + Int(XEN_PAGE_SIZE_BYTES), entries: NetRing.slots, entrySize: NetRing.receiveSlot,
            startingAt: index)
        freePages = Array(2..<2 + Self.transmitPages)
        transmitPort = try domain.openPort(for: backend)
        receivePort = isSplit ? try domain.openPort(for: backend) : transmitPort
        self.pages = pages
        for ring in 0..<UInt32(2) { grant(ring, readOnly: false) }
        fill(NetRing.slots)
    }

    /// What is written to xenstore.
    public var references: (transmit: GrantReference, receive: GrantReference) {
        (GrantReference(pages.firstReference), GrantReference(pages.firstReference + 1))
    }

    private func grant(_ page: UInt32, readOnly: Bool) {
        domain.grants.grant(
            pages.firstReference + page, frame: pages.firstFrame + page, to: backend, readOnly: readOnly)
    }

    private func memory(_ page: UInt32) -> UnsafeMutableRawPointer {
        // One of the queue's own pages.
        unsafe pages.base + Int(page) * Int(XEN_PAGE_SIZE_BYTES)
    }

    // MARK: From the guest

    /// Slots that can still be put.
    public var room: Int { min(Int(transmit.free), freePages.count) }

    /// Puts a frame on the ring, cut at `pieces` bytes; the caller has looked at `room`.
    public func send(
        _ frame: [UInt8], _ flags: TransmitFlags = [], _ segmentation: Segmentation? = nil, pieces: Int = 4096
    ) {
        var flags = flags
        if segmentation != nil { flags.insert(.extraInfo) }
        var start = 0
        repeat {
            let end = min(start + pieces, frame.count)
            var slotFlags = start == 0 ? flags : []
            if end < frame.count { slotFlags.insert(.moreData) }
            putData(Array(frame[start..<end]), slotFlags, size: start == 0 ? frame.count : end - start)
            if start == 0, let segmentation { putExtra(segmentation) }
            start = end
        } while start < frame.count
    }

    private func putData(_ bytes: [UInt8], _ flags: TransmitFlags, size: Int) {
        guard let page = freePages.popLast() else { return }
        for (index, byte) in bytes.enumerated() {
            unsafe memory(page).storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
        }
        grant(page, readOnly: true)
        let request = netif_tx_request_wire(
            gref: pages.firstReference + page, offset: 0, flags: flags.rawValue, id: nextIdentifier,
            size: UInt16(truncatingIfNeeded: size))
        put(request, page)
    }

    /// The identifier of an extra-info slot is not sent, but the response to it carries what lies there.
    private func putExtra(_ segmentation: Segmentation) {
        let low = UInt32(1) | UInt32(segmentation.size) << 16
        put(
            netif_tx_request_wire(
                gref: low, offset: UInt16(segmentation.kind.rawValue), flags: 0, id: nextIdentifier, size: 0), nil)
    }

    /// Asks for a change of the multicast list: a packet without data, whose second slot says which.
    public func changeGroups(_ address: MACAddress, joins: Bool) {
        putData([], .extraInfo, size: 0)
        let head = UInt64(joins ? 2 : 3) | (address.rawValue << 16).byteSwapped << 16
        put(
            netif_tx_request_wire(
                gref: UInt32(truncatingIfNeeded: head), offset: UInt16(truncatingIfNeeded: head >> 32),
                flags: UInt16(truncatingIfNeeded: head >> 48), id: nextIdentifier, size: 0), nil)
    }

    /// Puts anything at all, for hostile tests: `page` is what its response gives back.
    public func put(_ request: netif_tx_request_wire, _ page: UInt32?) {
        // Twelve bytes of a slot of twelve.
        unsafe transmit.requestSlot().copyMemory(from: [request], byteCount: NetRing.transmitSlot)
        inFlight.append((request.id, page))
        nextIdentifier &+= 1
    }

    /// Claims to have put up to a number of requests, for hostile tests.
    public func claim(_ index: UInt32, ofTransmit: Bool) {
        // The first word of either ring's page.
        unsafe xen_store_release(ofTransmit ? pages.base : pages.base + Int(XEN_PAGE_SIZE_BYTES), index)
    }

    /// Changes a request that the backend has not read yet, for hostile tests.
    public func alterTransmit(_ slot: Int, _ change: (inout netif_tx_request_wire) -> Void) {
        // The first of the queue's own pages has as many slots of twelve bytes.
        let place = unsafe memory(0) + Int(XEN_RING_ENTRIES) + slot % Int(NetRing.slots) * NetRing.transmitSlot
        var request = unsafe place.load(as: netif_tx_request_wire.self)
        change(&request)
        unsafe place.storeBytes(of: request, as: netif_tx_request_wire.self)
    }

    /// All that was sent is answered, as far as `reap` has seen.
    public var isIdle: Bool { inFlight.isEmpty }

    /// Makes requests visible and sends the event that the backend asked for.
    public func publish() {
        if transmit.publish() { transmitPort.channel.notify() }
    }

    /// Takes the responses that there are: in order, one for each slot, whose page nobody uses any more.
    public func reap() throws(NetMisbehaviour) {
        guard let waiting = transmit.waiting() else { throw .responseOverrun }
        for _ in 0..<waiting {
            let slot = unsafe transmit.takeSlot()
            let word = unsafe slot.load(as: UInt32.self)
            let (id, status) = (UInt16(truncatingIfNeeded: word), Int16(truncatingIfNeeded: word >> 16))
            guard !inFlight.isEmpty else { throw .unknownIdentifier(id) }
            let (expected, page) = inFlight.removeFirst()
            guard id == expected else { throw .unknownIdentifier(id) }
            guard (status == NetStatus.null.rawValue) == (page == nil) else { throw .wrongStatus(id, status) }
            statuses[status, default: 0] += 1
            guard let page else { continue }
            let reference = GrantReference(pages.firstReference + page)
            guard domain.grants.end(reference) else { throw .grantInUse(reference) }
            freePages.append(page)
        }
    }

    // MARK: To the guest

    private func fill(_ count: UInt32) {
        for _ in 0..<count where receive.free > 0 {
            let slot = Int(receive.produced & (NetRing.slots - 1))
            let page = 2 + Self.transmitPages + UInt32(slot)
            buffers[slot] = page
            grant(page, readOnly: false)
            let request = netif_rx_request_wire(
                id: UInt16(slot), pad: 0, gref: pages.firstReference + page)
            // Eight bytes of a slot of eight.
            unsafe receive.requestSlot().copyMemory(from: [request], byteCount: NetRing.receiveSlot)
        }
        if receive.publish() { receivePort.channel.notify() }
    }

    /// Takes the frames that there are, and puts their buffers up again.
    public func take() throws(NetMisbehaviour) -> [DeliveredFrame] {
        guard var waiting = receive.waiting() else { throw .responseOverrun }
        let taken = waiting
        var frames: [DeliveredFrame] = []
        while waiting > 0 { frames.append(try takeFrame(&waiting)) }
        fill(taken)
        return frames
    }

    /// Changes a buffer that the backend has not taken yet, for hostile tests.
    public func alterReceive(_ slot: Int, _ change: (inout netif_rx_request_wire) -> Void) {
        // The second of the queue's own pages has as many slots of eight bytes.
        let place = unsafe memory(1) + Int(XEN_RING_ENTRIES) + slot % Int(NetRing.slots) * NetRing.receiveSlot
        var request = unsafe place.load(as: netif_rx_request_wire.self)
        change(&request)
        unsafe place.storeBytes(of: request, as: netif_rx_request_wire.self)
    }

    /// Takes responses as they are, each with all that lies in its slot's own page, and puts the buffers up again: for
    /// hostile tests, as `take` finds fault with what follows from `alterReceive`.
    public func takeUnchecked() throws(NetMisbehaviour) -> [(response: netif_rx_response_wire, page: [UInt8])] {
        guard let waiting = receive.waiting() else { throw .responseOverrun }
        var taken: [(response: netif_rx_response_wire, page: [UInt8])] = []
        for _ in 0..<waiting {
            let page = buffers[Int(receive.consumed & (NetRing.slots - 1))]
            // Eight bytes of a slot of eight, and one of the queue's own pages.
            let response = unsafe receive.takeSlot().load(as: netif_rx_response_wire.self)
            let bytes = unsafe UnsafeRawBufferPointer(start: memory(page), count: Int(XEN_PAGE_SIZE_BYTES))
            taken.append((response, unsafe Array(bytes)))
        }
        fill(waiting)
        return taken
    }

    private func takeFrame(_ waiting: inout UInt32) throws(NetMisbehaviour) -> DeliveredFrame {
        var frame = DeliveredFrame(bytes: [], flags: [], segmentation: nil)
        var isFirst = true
        while true {
            guard waiting > 0 else { throw .packetWithoutEnd }
            let (flags, offset) = try takeData(&frame)
            waiting -= 1
            if isFirst { frame.flags = flags.subtracting([.moreData, .extraInfo]) }
            var said: UInt16 = 0
            if flags.contains(.extraInfo) {
                guard isFirst else { throw .packetWithoutEnd }
                said = try takeExtras(&frame, &waiting)
            }
            guard said == (isFirst ? headroom : 0), offset == said else { throw .wrongHeadroom(offset) }
            isFirst = false
            if !flags.contains(.moreData) { break }
        }
        let needed: ReceiveFlags = frame.segmentation == nil ? .dataValidated : [.checksumBlank, .dataValidated]
        let mustHave = frame.segmentation != nil || frame.flags.contains(.checksumBlank)
        guard !mustHave || frame.flags.isSuperset(of: needed) else { throw .flagsDoNotFit(frame.flags.rawValue) }
        return frame
    }

    private func takeData(
        _ frame: inout DeliveredFrame
    ) throws(NetMisbehaviour) -> (ReceiveFlags, offset: UInt16) {
        let slot = Int(receive.consumed & (NetRing.slots - 1))
        let word = unsafe receive.takeSlot().load(as: UInt64.self)
        guard UInt16(truncatingIfNeeded: word) == UInt16(slot) else {
            throw .wrongSlot(UInt16(truncatingIfNeeded: word))
        }
        let offset = UInt16(truncatingIfNeeded: word >> 16)
        let status = Int16(bitPattern: UInt16(truncatingIfNeeded: word >> 48))
        guard status >= 0, Int(offset) + Int(status) <= 4096 else { throw .beyondPage(status) }
        let reference = GrantReference(pages.firstReference + buffers[slot])
        guard domain.grants.end(reference) else { throw .grantInUse(reference) }
        let page = unsafe UnsafeRawBufferPointer(start: memory(buffers[slot]) + Int(offset), count: Int(status))
        frame.bytes += unsafe Array(page)
        return (ReceiveFlags(rawValue: UInt16(truncatingIfNeeded: word >> 32)), offset)
    }

    /// Takes all extra info of a packet; the headroom that it says.
    private func takeExtras(
        _ frame: inout DeliveredFrame, _ waiting: inout UInt32
    ) throws(NetMisbehaviour) -> UInt16 {
        var headroom: UInt16 = 0
        var kinds: Set<UInt8> = []
        while true {
            guard waiting > 0 else { throw .packetWithoutEnd }
            waiting -= 1
            let word = takeExtra()
            let (kind, value) = (UInt8(truncatingIfNeeded: word), UInt16(truncatingIfNeeded: word >> 16))
            guard kinds.insert(kind).inserted, word >> 8 & 0xFE == 0 else { throw .badExtra(kind) }
            switch kind {
            case 1: frame.segmentation = try segmentation(word)
            case 4: frame.hash = try hash(word)
            case 5 where self.headroom > 0 && word >> 32 == 0: headroom = value
            default: throw .badExtra(kind)
            }
            if word >> 8 & 1 == 0 { return headroom }
        }
    }

    private func takeExtra() -> UInt64 {
        let slot = Int(receive.consumed & (NetRing.slots - 1))
        defer { _ = domain.grants.end(GrantReference(pages.firstReference + buffers[slot])) }
        // Eight bytes of a slot of eight.
        return unsafe receive.takeSlot().load(as: UInt64.self)
    }

    private func segmentation(_ word: UInt64) throws(NetMisbehaviour) -> Segmentation {
        let kind = SegmentationKind(rawValue: UInt8(truncatingIfNeeded: word >> 32))
        let size = UInt16(truncatingIfNeeded: word >> 16)
        guard let kind, size > 0, word >> 40 == 0 else { throw .badExtra(1) }
        return Segmentation(kind, size: size)
    }

    private func hash(_ word: UInt64) throws(NetMisbehaviour) -> PacketHash {
        guard takesHashes, let kind = HashKind(rawValue: UInt8(truncatingIfNeeded: word >> 16)),
            UInt32(truncatingIfNeeded: word >> 24 & 0xFF) == HashAlgorithm.toeplitz.rawValue
        else { throw .badExtra(4) }
        return PacketHash(kind, UInt32(truncatingIfNeeded: word >> 32))
    }

    /// Asks for an event at the next response of either ring: true if the frontend may wait for it.
    public func arm() -> Bool {
        let transmitMayWait = transmit.arm()
        return receive.arm() && transmitMayWait
    }
}
