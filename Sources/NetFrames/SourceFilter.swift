public import XenWire

/// Addresses that share their first bits.
public struct AddressRange: Hashable, Sendable {
    /// Four bytes or sixteen, in network order.
    public let bytes: [UInt8]
    /// Bits that count.
    public let length: Int

    /// `192.168.1.7`, `10.0.0.0/8`, `fd00::1`, `2001:db8::/32`; nil if it is anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = parts.first, let bytes = Self.v4(address) ?? Self.v6(address) else { return nil }
        guard let length = parts.count == 1 ? bytes.count * 8 : Self.number(parts[1], atMost: bytes.count * 8) else {
            return nil
        }
        self.bytes = bytes
        self.length = length
    }

    /// Four bytes or sixteen, and as many bits as count; nil if it is anything else.
    public init?(bytes: [UInt8], length: Int) {
        guard [4, 16].contains(bytes.count), (0...bytes.count * 8).contains(length) else { return nil }
        self.bytes = bytes
        self.length = length
    }

    public var isV4: Bool { bytes.count == 4 }

    /// Whether the address at `other`, of the same kind, is one of them.
    func contains(_ other: UnsafeRawPointer) -> Bool {
        for index in 0..<(length + 7) / 8 {
            let mask = UInt8(truncatingIfNeeded: 0xFF00 >> min(8, length - 8 * index))
            // The caller answers for as many bytes as the address has.
            if unsafe (other.load(fromByteOffset: index, as: UInt8.self) ^ bytes[index]) & mask != 0 { return false }
        }
        return true
    }

    private static func number(_ text: some StringProtocol, atMost limit: Int) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let number = Int(text), number <= limit
        else { return nil }
        return number
    }

    private static func v4(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        let bytes = parts.compactMap { number($0, atMost: 255).map { UInt8($0) } }
        return bytes.count == 4 ? bytes : nil
    }

    /// RFC 4291, 2.2, without the form that ends like an IPv4 address.
    private static func v6(_ text: some StringProtocol) -> [UInt8]? {
        guard text.utf8.count <= 39 else { return nil }
        guard let gap = text.range(of: "::") else { return groups(text, exactly: 8) }
        let (front, back) = (text[..<gap.lowerBound], text[gap.upperBound...])
        guard let head = front.isEmpty ? [] : groups(front), let tail = back.isEmpty ? [] : groups(back),
            head.count + tail.count <= 14
        else { return nil }
        return head + Array(repeating: 0, count: 16 - head.count - tail.count) + tail
    }

    private static func groups(_ text: some StringProtocol, exactly count: Int? = nil) -> [UInt8]? {
        var bytes: [UInt8] = []
        for group in text.split(separator: ":", omittingEmptySubsequences: false) {
            guard (1...4).contains(group.utf8.count), group.first != "+", let word = UInt16(group, radix: 16) else {
                return nil
            }
            bytes += [UInt8(word >> 8), UInt8(truncatingIfNeeded: word)]
        }
        return count.map { bytes.count == $0 * 2 } ?? true ? bytes : nil
    }
}

extension StringProtocol {
    /// Without Foundation.
    fileprivate func range(of text: StaticString) -> Range<Index>? {
        guard text.utf8CodeUnitCount == 2 else { return nil }
        var index = startIndex
        while index < endIndex {
            let next = self.index(after: index)
            if next < endIndex, self[index] == ":", self[next] == ":" { return index..<self.index(after: next) }
            index = next
        }
        return nil
    }
}

/// Why a guest's frame may not leave.
public enum FilterReason: UInt8, CaseIterable, Sendable {
    /// The hardware address is not the guest's: of the frame, or within ARP.
    case foreignMAC
    /// The source is not one of the guest's addresses.
    case foreignIPv4, foreignIPv6
    /// ARP or neighbour discovery that speaks for somebody else.
    case foreignARP, foreignNeighbour
    /// Neither IP nor ARP, from a guest whose addresses are known; or a header that is cut.
    case otherProtocol
    /// What only the network's own machines may send.
    case routerAdvertisement, dhcpServer
}

/// Whether a frame is the guest's own to send: its hardware address, and its IP addresses if the toolstack has given any.
///
/// Pure, on the private copy that is then sent, so there is no second look at anything.
public struct SourceFilter: Equatable, Sendable {
    private let mac: MACAddress?
    private let addresses: [AddressRange]

    /// - Parameters:
    ///   - mac: nil if any will do.
    ///   - addresses: if none, any will do.
    public init(mac: MACAddress?, addresses: [AddressRange]) {
        self.mac = mac
        self.addresses = addresses
    }

    /// Nil if the frame, of `count` bytes, may leave.
    public func judge(_ frame: UnsafeRawPointer, count: Int) -> FilterReason? {
        guard let headers = unsafe FrameHeaders(frame, count: count) else { return .otherProtocol }
        if let mac, unsafe Self.address(frame, 6) != mac { return .foreignMAC }
        switch headers.etherType {
        case 0x0806: return unsafe judgeARP(frame, headers, count)
        case FrameHeaders.ipv4 where headers.ip == .v4: return unsafe judgeIPv4(frame, headers)
        case FrameHeaders.ipv6 where headers.ip == .v6: return unsafe judgeIPv6(frame, headers)
        default: return addresses.isEmpty ? nil : .otherProtocol
        }
    }

    private static func address(_ frame: UnsafeRawPointer, _ offset: Int) -> MACAddress {
        // Six bytes from `offset` are there.
        MACAddress(
            rawValue: UInt64(unsafe FrameHeaders.load16(frame, offset)) << 32
                | UInt64(unsafe FrameHeaders.load16(frame, offset + 2)) << 16
                | UInt64(unsafe FrameHeaders.load16(frame, offset + 4)))
    }

    private func owns(_ address: UnsafeRawPointer, isV4: Bool) -> Bool {
        // The caller answers for an address of that kind.
        addresses.isEmpty || addresses.contains { unsafe $0.isV4 == isV4 && $0.contains(address) }
    }

    private static func isZero(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        (0..<count).allSatisfy { unsafe bytes.load(fromByteOffset: $0, as: UInt8.self) == 0 }
    }

    /// RFC 826; a sender of 0.0.0.0 asks whether an address is taken (RFC 5227).
    private func judgeARP(_ frame: UnsafeRawPointer, _ headers: FrameHeaders, _ count: Int) -> FilterReason? {
        guard headers.network + 28 <= count else { return .otherProtocol }
        // 28 bytes from `network` are there.
        if let mac, unsafe Self.address(frame, headers.network + 8) != mac { return .foreignMAC }
        let sender = unsafe frame + headers.network + 14
        return unsafe Self.isZero(sender, 4) || owns(sender, isV4: true) ? nil : .foreignARP
    }

    /// Ports of DHCP (RFC 2131): who asks for an address has none.
    private func judgeIPv4(_ frame: UnsafeRawPointer, _ headers: FrameHeaders) -> FilterReason? {
        let port = unsafe sourcePort(frame, headers)
        if port == 67 { return .dhcpServer }
        // The header is there as a whole.
        let source = unsafe frame + headers.network + 12
        if unsafe owns(source, isV4: true) { return nil }
        return unsafe port == 68 && Self.isZero(source, 4) ? nil : .foreignIPv4
    }

    /// Link-local addresses are everybody's, and `::` asks whether an address is taken (RFC 4862).
    private func judgeIPv6(_ frame: UnsafeRawPointer, _ headers: FrameHeaders) -> FilterReason? {
        if unsafe sourcePort(frame, headers) == 547 { return .dhcpServer }
        if headers.protocolNumber == 58, headers.upper > 0, headers.upper < headers.end {
            if let reason = unsafe judgeICMPv6(frame, headers) { return reason }
        }
        // The header is there as a whole.
        let source = unsafe frame + headers.network + 8
        return unsafe isEverybodys(source) || Self.isZero(source, 16) || owns(source, isV4: false) ? nil : .foreignIPv6
    }

    /// Router advertisements and redirects are a router's; a neighbour advertisement speaks for its target (RFC 4861).
    private func judgeICMPv6(_ frame: UnsafeRawPointer, _ headers: FrameHeaders) -> FilterReason? {
        switch unsafe frame.load(fromByteOffset: headers.upper, as: UInt8.self) {
        case 134, 137: return .routerAdvertisement
        case 136:
            guard headers.upper + 24 <= headers.end else { return .foreignNeighbour }
            let target = unsafe frame + headers.upper + 8
            return unsafe isEverybodys(target) || owns(target, isV4: false) ? nil : .foreignNeighbour
        default: return nil
        }
    }

    private func isEverybodys(_ address: UnsafeRawPointer) -> Bool {
        // Sixteen bytes are there.
        unsafe FrameHeaders.load16(address, 0) & 0xFFC0 == 0xFE80
    }

    /// Of a UDP datagram, 0 of anything else.
    private func sourcePort(_ frame: UnsafeRawPointer, _ headers: FrameHeaders) -> UInt16 {
        guard headers.transportProtocol == .udp else { return 0 }
        return unsafe FrameHeaders.load16(frame, headers.transport)
    }
}
