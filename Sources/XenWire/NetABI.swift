internal import CXen

/// The rings of a virtual network interface (xen/io/netif.h): one page each.
public enum NetRing {
    /// Slots of the transmit ring (from the guest) and of the receive ring (to the guest).
    public static let slots: UInt32 = 256
    /// Bytes of a slot.
    public static let transmitSlot = 12
    public static let receiveSlot = 8
    /// Slots of the control ring, and bytes of one.
    public static let controlSlots: UInt32 = 128
    public static let controlSlot = 16
    /// A packet from the guest has at most so many slots of data: what frontends may send (XEN_NETIF_NR_SLOTS_MIN), and
    /// the one that old Linux frontends use in excess.
    public static let transmitSlots = 19
    /// With so many a guest is broken, not merely generous (netback's fatal_skb_slots, which does not count the first).
    public static let fatalSlots = 22
    /// Extra-info slots of a packet: one of each kind.
    public static let extras = 5
}

/// Flags of a transmit request (XEN_NETTXF_*).
public struct TransmitFlags: OptionSet, Sendable {
    public let rawValue: UInt16
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }
    /// The checksum field holds the pseudo-header's sum; the rest is to be done.
    @inlinable public static var checksumBlank: TransmitFlags { @_noLocks get { TransmitFlags(rawValue: 1) } }
    /// The checksum is known to be right.
    @inlinable public static var dataValidated: TransmitFlags { @_noLocks get { TransmitFlags(rawValue: 2) } }
    /// The packet goes on in the next slot.
    @inlinable public static var moreData: TransmitFlags { @_noLocks get { TransmitFlags(rawValue: 4) } }
    /// The next slot is extra info.
    @inlinable public static var extraInfo: TransmitFlags { @_noLocks get { TransmitFlags(rawValue: 8) } }
}

/// Flags of a receive response (XEN_NETRXF_*): not the order of the other direction.
public struct ReceiveFlags: OptionSet, Sendable {
    public let rawValue: UInt16
    @inlinable @_noLocks public init(rawValue: UInt16) { self.rawValue = rawValue }
    @inlinable public static var dataValidated: ReceiveFlags { @_noLocks get { ReceiveFlags(rawValue: 1) } }
    @inlinable public static var checksumBlank: ReceiveFlags { @_noLocks get { ReceiveFlags(rawValue: 2) } }
    @inlinable public static var moreData: ReceiveFlags { @_noLocks get { ReceiveFlags(rawValue: 4) } }
    @inlinable public static var extraInfo: ReceiveFlags { @_noLocks get { ReceiveFlags(rawValue: 8) } }
}

/// How a slot ended (XEN_NETIF_RSP_*).
public enum NetStatus: Int16, Sendable {
    case dropped = -2
    case error = -1
    case okay = 0
    /// Of a slot that held extra info.
    case null = 1
}

/// Which segmentation a packet needs (XEN_NETIF_GSO_TYPE_*).
public enum SegmentationKind: UInt8, Sendable, BitwiseCopyable {
    case tcpV4 = 1
    case tcpV6 = 2
}

/// A large packet and how it is to be cut.
public struct Segmentation: Equatable, Sendable, BitwiseCopyable {
    public var kind: SegmentationKind
    /// Bytes of payload per segment; not 0.
    public var size: UInt16

    public init(_ kind: SegmentationKind, size: UInt16) {
        self.kind = kind
        self.size = size
    }
}

/// What an extra-info slot says.
public enum ExtraInfo: Equatable, Sendable {
    case segmentation(Segmentation)
    case joinMulticast(MACAddress)
    case leaveMulticast(MACAddress)
    /// A hash that the sender has computed; nothing that a backend must use.
    case hash

    static let moreFlag: UInt8 = 1

    /// Judges a slot that must be extra info.
    static func judge(_ slot: netif_extra_wire) throws(NetViolation) -> ExtraInfo {
        let body = slot.body
        switch slot.type {
        case 1: return .segmentation(try segmentation(body))
        case 2: return .joinMulticast(MACAddress(body.0, body.1, body.2, body.3, body.4, body.5))
        case 3: return .leaveMulticast(MACAddress(body.0, body.1, body.2, body.3, body.4, body.5))
        case 4: return .hash
        default: throw .unknownExtra
        }
    }

    private static func segmentation(
        _ body: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)
    ) throws(NetViolation) -> Segmentation {
        let size = UInt16(body.0) | UInt16(body.1) << 8
        guard size > 0 else { throw .segmentOfNothing }
        guard let kind = SegmentationKind(rawValue: body.2) else { throw .unknownSegmentation }
        return Segmentation(kind, size: size)
    }
}

/// Extra info behind the first slot of a packet to the guest; each takes a slot of its own.
public enum ReceiveExtra: Equatable, Sendable, BitwiseCopyable {
    case segmentation(Segmentation)
    /// The packet begins so many bytes into its first page (XEN_NETIF_EXTRA_TYPE_XDP, in Linux' netif.h only).
    case headroom(UInt16)
    case hash(PacketHash)

    /// The slot's eight bytes, little-endian.
    ///
    /// - Parameter isLast: no other one follows.
    public func word(isLast: Bool) -> UInt64 {
        let more = UInt64(isLast ? 0 : ExtraInfo.moreFlag) << 8
        switch self {
        case .segmentation(let segmentation):
            return 1 | more | UInt64(segmentation.size) << 16 | UInt64(segmentation.kind.rawValue) << 32
        case .headroom(let bytes): return 5 | more | UInt64(bytes) << 16
        case .hash(let hash):
            let head = 4 | more | UInt64(hash.kind.rawValue) << 16
            return head | UInt64(HashAlgorithm.toeplitz.rawValue) << 24 | UInt64(hash.value) << 32
        }
    }
}

/// A hardware address.
public struct MACAddress: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// In transmission order, the first octet in the highest of six bytes.
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue & 0xFFFF_FFFF_FFFF }

    public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, _ e: UInt8, _ f: UInt8) {
        rawValue = [a, b, c, d, e, f].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// `00:16:3e:01:02:03`; nil if it is anything else.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 6 else { return nil }
        var value: UInt64 = 0
        for part in parts {
            guard (1...2).contains(part.utf8.count), part.first != "+", let octet = UInt8(part, radix: 16) else {
                return nil
            }
            value = value << 8 | UInt64(octet)
        }
        rawValue = value
    }

    /// A group of stations, all of them included.
    public var isMulticast: Bool { rawValue >> 40 & 1 == 1 }

    public static let broadcast = MACAddress(rawValue: .max)

    public var description: String {
        (0..<6).map { index in
            let octet = UInt8(truncatingIfNeeded: rawValue >> UInt64(40 - 8 * index))
            return (octet < 16 ? "0" : "") + String(octet, radix: 16)
        }
        .joined(separator: ":")
    }
}

/// A rule of netif that a guest broke after which nothing on its rings can be trusted; its interface is stopped.
public enum NetViolation: UInt8, Error, CaseIterable, Sendable {
    /// `req_prod` claims more requests than the ring holds.
    case ringOverrun
    /// A packet or its extra info goes on beyond the last request.
    case chainWithoutEnd
    /// More slots than any frontend may use.
    case tooManySlots
    /// Extra info of a kind that does not exist.
    case unknownExtra
    /// The same kind of extra info twice.
    case repeatedExtra
    /// A segment size of 0.
    case segmentOfNothing
    /// A kind of segmentation that does not exist.
    case unknownSegmentation
    /// Data that crosses the end of its page.
    case beyondPage
}
