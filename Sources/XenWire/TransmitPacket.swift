public import CXen

/// Why a packet from the guest is not sent; its slots are answered with an error and the interface goes on.
public enum TransmitFault: UInt8, CaseIterable, Sendable {
    /// More slots than frontends may use, but not absurdly many.
    case tooManySlots
    /// The slots hold more than the packet is long.
    case longerThanSaid
    /// Less than an Ethernet header.
    case tooShort
}

/// A packet that a guest wants to send: what its slots amount to.
public struct TransmitPacket: Equatable, Sendable {
    /// Slots that it takes, extra info included.
    public var slots: Int
    /// Extra-info slots among them, behind the first.
    public var extras: Int
    /// Bytes in all.
    public var size: UInt32
    /// Bytes in the first slot.
    public var firstSize: UInt32
    public var flags: TransmitFlags
    public var segmentation: Segmentation?
    /// A change of the multicast list: such a packet is answered and not sent.
    public var multicast: ExtraInfo?
    /// Why it is not sent.
    public var fault: TransmitFault?
}

extension TransmitPacket {
    /// Judges the packet that begins with the first of `count` private copies of requests.
    ///
    /// Pure: what it reads was copied out of the ring once. It takes all slots of a packet, also of one that is not sent, so
    /// that the next one begins where the guest means it.
    ///
    /// - Parameter slots: at least one.
    public static func judge(
        _ slots: UnsafePointer<netif_tx_request_wire>, count: Int
    ) throws(NetViolation) -> TransmitPacket {
        // The caller answers for `count` elements, and nothing beyond is looked at.
        let first = unsafe slots[0]
        let flags = TransmitFlags(rawValue: first.flags)
        var packet = TransmitPacket(
            slots: 1, extras: 0, size: UInt32(first.size), firstSize: UInt32(first.size), flags: flags)
        if flags.contains(.extraInfo) { unsafe try packet.takeExtras(slots, count) }
        if flags.contains(.moreData) { unsafe try packet.takeFragments(slots, count) }
        // Of a packet that only changes the multicast list no byte is looked at, and frontends put nothing into it.
        guard packet.multicast == nil else { return packet }
        if packet.fault == nil, packet.firstSize < 14 { packet.fault = .tooShort }
        guard packet.fault != nil || UInt32(first.offset) + packet.firstSize <= 4096 else { throw .beyondPage }
        return packet
    }

    private mutating func takeExtras(
        _ requests: UnsafePointer<netif_tx_request_wire>, _ count: Int
    ) throws(NetViolation) {
        var (isSegmented, isMulticast, isHashed) = (false, false, false)
        while true {
            guard slots < count else { throw .chainWithoutEnd }
            // Extra info fills the first eight bytes of a slot of twelve.
            let extra = unsafe UnsafeRawPointer(requests + slots).loadUnaligned(as: netif_extra_wire.self)
            slots += 1
            extras += 1
            switch try ExtraInfo.judge(extra) {
            case .segmentation(let segmentation):
                guard !isSegmented else { throw .repeatedExtra }
                isSegmented = true
                self.segmentation = segmentation
            case .hash:
                guard !isHashed else { throw .repeatedExtra }
                isHashed = true
            case let change:
                guard !isMulticast else { throw .repeatedExtra }
                isMulticast = true
                multicast = change
            }
            guard extras <= NetRing.extras else { throw .repeatedExtra }
            if extra.flags & ExtraInfo.moreFlag == 0 { return }
        }
    }

    /// The first slot's size is the packet's; what the others hold is taken from it.
    private mutating func takeFragments(
        _ requests: UnsafePointer<netif_tx_request_wire>, _ count: Int
    ) throws(NetViolation) {
        var data = 1
        while true {
            guard slots < count else { throw .chainWithoutEnd }
            let request = unsafe requests[slots]
            slots += 1
            data += 1
            guard data < NetRing.fatalSlots else { throw .tooManySlots }
            if data > NetRing.transmitSlots { fault = fault ?? .tooManySlots }
            try take(request)
            if !TransmitFlags(rawValue: request.flags).contains(.moreData) { return }
        }
    }

    private mutating func take(_ request: netif_tx_request_wire) throws(NetViolation) {
        guard fault == nil else { return }
        guard UInt32(request.size) <= firstSize else {
            fault = .longerThanSaid
            return
        }
        guard UInt32(request.offset) + UInt32(request.size) <= 4096 else { throw .beyondPage }
        firstSize -= UInt32(request.size)
    }
}
