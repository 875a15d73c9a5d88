public import XenWire

/// What a guest can take: what its frontend negotiated.
public struct GuestOffloads: Equatable, Sendable, BitwiseCopyable {
    /// TCP and UDP over IPv4, and over IPv6, without their sums.
    public var checksumV4 = true
    public var checksumV6 = true
    /// Frames longer than the MTU, to be cut by the guest if anybody does.
    public var segmentationV4 = true
    public var segmentationV6 = true

    public init(checksumV4: Bool, checksumV6: Bool, segmentationV4: Bool, segmentationV6: Bool) {
        self.checksumV4 = checksumV4
        self.checksumV6 = checksumV6
        self.segmentationV4 = segmentationV4
        self.segmentationV6 = segmentationV6
    }

    public static let none = GuestOffloads(
        checksumV4: false, checksumV6: false, segmentationV4: false, segmentationV6: false)
    public static let all = GuestOffloads(
        checksumV4: true, checksumV6: true, segmentationV4: true, segmentationV6: true)

    func takesChecksum(_ ip: InternetProtocol) -> Bool { ip == .v4 ? checksumV4 : checksumV6 }

    func takesSegmentation(_ ip: InternetProtocol) -> Bool {
        takesChecksum(ip) && (ip == .v4 ? segmentationV4 : segmentationV6)
    }
}

/// Why a guest's frame cannot be handed on.
public enum FrameFault: UInt8, Error, CaseIterable, Sendable {
    /// A checksum is to be completed where there is none that is understood.
    case checksumOfUnknown
    /// It is to be cut, and is no TCP segment of the kind that it says.
    case segmentationOfUnknown
}

/// How a frame from the TAP device reaches the guest.
public enum Delivery: Equatable, Sendable {
    /// As it is, with these flags.
    case whole(ReceiveFlags, Segmentation?)
    /// Cut into segments with this much payload: the guest takes none that are longer.
    case cut(payload: Int, headers: FrameHeaders)
    /// It is to be cut, but is not what it says.
    case dropped
}

/// Between netif's flags and virtio's header.
///
/// netif says "the sum is missing" and nothing about where it goes: that follows from the outermost TCP or UDP header of
/// an untagged frame, and nothing else. virtio says where; so both directions look into the frame.
public enum Translation {
    /// The header for a frame from a guest, in private memory; completes what virtio wants to find in the frame.
    public static func toHost(
        _ frame: UnsafeMutableRawPointer, count: Int, _ flags: TransmitFlags, _ segmentation: Segmentation?
    ) throws(FrameFault) -> VirtioHeader {
        var header = VirtioHeader()
        if let segmentation {
            unsafe try fill(&header, segmentation, frame, count)
        } else if flags.contains(.checksumBlank) {
            guard let headers = unsafe FrameHeaders(frame, count: count), let kind = headers.transportProtocol else {
                throw .checksumOfUnknown
            }
            unsafe askForChecksum(&header, headers, kind, frame)
        } else if flags.contains(.dataValidated) {
            header.flags = VirtioHeader.dataValid
        }
        return header
    }

    /// Frontends may leave out `csum_blank` (some did): the segments get sums of their own in any case.
    private static func fill(
        _ header: inout VirtioHeader, _ segmentation: Segmentation, _ frame: UnsafeMutableRawPointer, _ count: Int
    ) throws(FrameFault) {
        guard let headers = unsafe FrameHeaders(frame, count: count), let payload = unsafe headers.payload(frame),
            headers.ip == (segmentation.kind == .tcpV4 ? .v4 : .v6)
        else { throw .segmentationOfUnknown }
        unsafe askForChecksum(&header, headers, .tcp, frame)
        header.segmentation = segmentation.kind == .tcpV4 ? VirtioHeader.tcpV4 : VirtioHeader.tcpV6
        header.headerLength = UInt16(truncatingIfNeeded: payload)
        header.segmentSize = segmentation.size
    }

    /// The field then holds the pseudo-header's sum, whatever the guest has put there.
    private static func askForChecksum(
        _ header: inout VirtioHeader, _ headers: FrameHeaders, _ kind: TransportProtocol,
        _ frame: UnsafeMutableRawPointer
    ) {
        header.flags = VirtioHeader.needsChecksum
        header.checksumStart = UInt16(truncatingIfNeeded: headers.transport)
        header.checksumOffset = UInt16(truncatingIfNeeded: kind.checksumOffset)
        let sum = unsafe headers.pseudoHeader(frame, length: headers.end - headers.transport).folded
        // The transport's header is there as a whole.
        unsafe frame.storeBytes(of: sum, toByteOffset: headers.transport + kind.checksumOffset, as: UInt16.self)
    }

    /// The flags of a frame that reaches any guest as it is; nil if it has to be looked into. Most frames have such a header.
    @inlinable public static func plainFlags(_ header: UnsafeRawPointer) -> ReceiveFlags? {
        // The header's first two of ten bytes: flags and segmentation.
        let (flags, segmentation) = unsafe (header.load(as: UInt8.self), header.load(fromByteOffset: 1, as: UInt8.self))
        guard segmentation == 0, flags & ~2 == 0 else { return nil }  // VirtioHeader.dataValid
        return flags == 0 ? [] : .dataValidated
    }

    /// How a frame from the TAP device reaches the guest; completes its sum if the guest cannot.
    public static func toGuest(
        _ frame: UnsafeMutableRawPointer, count: Int, _ header: VirtioHeader, _ offloads: GuestOffloads
    ) -> Delivery {
        if header.segmentation & ~VirtioHeader.congestion != VirtioHeader.none {
            guard let headers = unsafe FrameHeaders(frame, count: count) else { return .dropped }
            return unsafe large(frame, header, headers, offloads)
        }
        guard header.flags & VirtioHeader.needsChecksum != 0 else {
            return .whole(header.flags & VirtioHeader.dataValid != 0 ? .dataValidated : [], nil)
        }
        if let headers = unsafe FrameHeaders(frame, count: count), isOutermost(header, headers), let ip = headers.ip,
            offloads.takesChecksum(ip)
        {
            return .whole([.checksumBlank, .dataValidated], nil)
        }
        unsafe complete(frame, count, header)
        return .whole(.dataValidated, nil)
    }

    private static func large(
        _ frame: UnsafeMutableRawPointer, _ header: VirtioHeader, _ headers: FrameHeaders, _ offloads: GuestOffloads
    ) -> Delivery {
        let kind = header.segmentation & ~VirtioHeader.congestion
        guard let ip = headers.ip, kind == (ip == .v4 ? VirtioHeader.tcpV4 : VirtioHeader.tcpV6),
            header.segmentSize > 0, unsafe headers.payload(frame) != nil
        else { return .dropped }
        guard headers.tags == 0, offloads.takesSegmentation(ip), isOutermost(header, headers) else {
            return .cut(payload: Int(header.segmentSize), headers: headers)
        }
        return .whole(
            [.checksumBlank, .dataValidated], Segmentation(ip == .v4 ? .tcpV4 : .tcpV6, size: header.segmentSize))
    }

    /// The missing sum is the one that a frontend would complete.
    private static func isOutermost(_ header: VirtioHeader, _ headers: FrameHeaders) -> Bool {
        guard let kind = headers.transportProtocol, headers.tags == 0 else { return false }
        return Int(header.checksumStart) == headers.transport && Int(header.checksumOffset) == kind.checksumOffset
    }

    /// Completes a sum as the kernel does (skb_checksum_help): over everything from its start to the frame's end.
    private static func complete(_ frame: UnsafeMutableRawPointer, _ count: Int, _ header: VirtioHeader) {
        let start = Int(header.checksumStart)
        let field = start + Int(header.checksumOffset)
        guard start < count, field + 2 <= count else { return }  // the kernel makes no such header
        var sum = InternetChecksum()
        // From `start` to the end, which is behind `field`.
        unsafe sum.add(frame + start, count - start)
        let complement = sum.complement
        // 0 means "no sum" to UDP; both are the same number.
        unsafe frame.storeBytes(of: complement == 0 ? 0xFFFF : complement, toByteOffset: field, as: UInt16.self)
    }
}
