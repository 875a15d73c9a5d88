public import XenWire

/// What a frame carries behind its link header.
public enum InternetProtocol: Sendable, BitwiseCopyable {
    case v4, v6
}

/// The transport that checksums and segmentation know.
public enum TransportProtocol: UInt8, Sendable, BitwiseCopyable {
    case tcp = 6
    case udp = 17

    /// Where the checksum lies in its header.
    var checksumOffset: Int {
        @_noLocks get { self == .tcp ? 16 : 6 }
    }
}

/// The headers of an Ethernet frame, as far as they have to be known: offsets in bytes from the frame's start.
///
/// Of a frame that a guest or anybody on the network made up: every length is checked against the bytes that are there.
public struct FrameHeaders: Equatable, Sendable, BitwiseCopyable {
    /// The innermost EtherType: behind VLAN tags.
    public var etherType: UInt16
    /// VLAN tags in front of it.
    public var tags: Int
    /// Where what `etherType` names begins.
    public var network: Int
    public var ip: InternetProtocol?
    /// What the IP packet carries (IANA's protocol numbers), and where; `upper` is 0 if that is not in this frame.
    public var protocolNumber: UInt8
    public var upper: Int
    /// Where the transport's header begins; 0 if there is none that is understood, or it is not in this fragment.
    public var transport: Int
    public var transportProtocol: TransportProtocol?
    /// Where the IP packet ends: frames may be padded.
    public var end: Int

    static let ethernetHeader = 14
    /// More than anybody sends; a chain of them must not cost anything.
    static let extensionHeaders = 8
    static let ipv4: UInt16 = 0x0800
    static let ipv6: UInt16 = 0x86DD
    static let vlan: UInt16 = 0x8100
    static let serviceVLAN: UInt16 = 0x88A8

    /// Reads the headers of a frame of `count` bytes in private memory; nil if it is shorter than an Ethernet header.
    public init?(_ frame: UnsafeRawPointer, count: Int) {
        guard count >= Self.ethernetHeader else { return nil }
        tags = 0
        network = Self.ethernetHeader
        // 14 bytes are there.
        etherType = unsafe Self.load16(frame, 12)
        ip = nil
        protocolNumber = 0
        upper = 0
        transport = 0
        transportProtocol = nil
        end = count
        while etherType == Self.vlan || etherType == Self.serviceVLAN, tags < 2, network &+ 4 <= count {
            etherType = unsafe Self.load16(frame, network &+ 2)
            network &+= 4
            tags &+= 1
        }
        if etherType == Self.ipv4 { unsafe readIPv4(frame, count) }
        if etherType == Self.ipv6 { unsafe readIPv6(frame, count) }
    }

    private mutating func readIPv4(_ frame: UnsafeRawPointer, _ count: Int) {
        guard network &+ 20 <= count else { return }
        // 20 bytes from `network` are there.
        let first = unsafe frame.load(fromByteOffset: network, as: UInt8.self)
        let length = Int(first & 15) &* 4
        let total = Int(unsafe Self.load16(frame, network &+ 2))
        guard first >> 4 == 4, length >= 20, total >= length, network &+ total <= count else { return }
        ip = .v4
        end = network &+ total
        // Of a fragmented packet no fragment has both ends of what a checksum covers.
        guard unsafe Self.load16(frame, network &+ 6) & 0x3FFF == 0 else { return }
        unsafe takeTransport(frame.load(fromByteOffset: network &+ 9, as: UInt8.self), at: network &+ length, frame)
    }

    private mutating func readIPv6(_ frame: UnsafeRawPointer, _ count: Int) {
        guard network &+ 40 <= count else { return }
        // 40 bytes from `network` are there.
        guard unsafe frame.load(fromByteOffset: network, as: UInt8.self) >> 4 == 6 else { return }
        let payload = Int(unsafe Self.load16(frame, network &+ 4))
        guard network &+ 40 &+ payload <= count else { return }
        ip = .v6
        end = network &+ 40 &+ payload
        unsafe skipExtensions(frame)
    }

    /// Hop-by-hop, routing and destination options (RFC 8200) lie in front of the transport; behind a fragment header
    /// there is none that could be worked on.
    private mutating func skipExtensions(_ frame: UnsafeRawPointer) {
        var next = unsafe frame.load(fromByteOffset: network &+ 6, as: UInt8.self)
        var offset = network &+ 40
        var left = Self.extensionHeaders
        while next == 0 || next == 43 || next == 60 {
            guard offset &+ 8 <= end, left > 0 else { return }
            left &-= 1
            next = unsafe frame.load(fromByteOffset: offset, as: UInt8.self)
            offset &+= (Int(unsafe frame.load(fromByteOffset: offset &+ 1, as: UInt8.self)) &+ 1) &* 8
        }
        unsafe takeTransport(next, at: offset, frame)
    }

    private mutating func takeTransport(_ number: UInt8, at offset: Int, _ frame: UnsafeRawPointer) {
        protocolNumber = number
        upper = offset
        guard let kind = TransportProtocol(rawValue: number), offset &+ (kind == .tcp ? 20 : 8) <= end else { return }
        transport = offset
        transportProtocol = kind
    }

    /// Where the payload of a TCP segment begins; nil if it is none, or its header is cut.
    public func payload(_ frame: UnsafeRawPointer) -> Int? {
        guard transportProtocol == .tcp else { return nil }
        // 20 bytes from `transport` are there.
        let length = Int(unsafe frame.load(fromByteOffset: transport &+ 12, as: UInt8.self) >> 4) &* 4
        return length >= 20 && transport &+ length <= end ? transport &+ length : nil
    }

    /// The sum of the pseudo-header of a transport segment of `length` bytes (RFC 9293, RFC 8200), in memory order.
    func pseudoHeader(_ frame: UnsafeRawPointer, length: Int) -> InternetChecksum {
        var sum = InternetChecksum()
        // The addresses are part of the header that was read.
        if ip == .v4 { unsafe sum.add(frame + network + 12, 8) } else { unsafe sum.add(frame + network + 8, 32) }
        sum.add(UInt16(transportProtocol?.rawValue ?? 0))
        sum.add(UInt16(truncatingIfNeeded: length))
        sum.add(UInt16(truncatingIfNeeded: length >> 16))
        return sum
    }

    /// Whom a frame in private memory is for.
    ///
    /// - Parameter frame: at least an Ethernet header.
    public static func destination(_ frame: UnsafeRawPointer) -> MACAddress {
        // Eight of 14 bytes, in network order; the first six count.
        MACAddress(rawValue: unsafe frame.loadUnaligned(as: UInt64.self).byteSwapped >> 16)
    }

    /// A 16-bit field in network order.
    @_noLocks static func load16(_ bytes: UnsafeRawPointer, _ offset: Int) -> UInt16 {
        // The callers have checked that it is there.
        unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self).byteSwapped
    }

    @_noLocks static func store16(_ bytes: UnsafeMutableRawPointer, _ offset: Int, _ value: UInt16) {
        unsafe bytes.storeBytes(of: value.byteSwapped, toByteOffset: offset, as: UInt16.self)
    }
}
