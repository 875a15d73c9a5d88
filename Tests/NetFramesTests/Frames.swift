@testable import NetFrames

/// Frames made by hand, field by field, and sums as the RFC writes them: nothing here is shared with what is tested.
struct Frame {
    var bytes: [UInt8]

    /// An Ethernet frame with an IP packet with a TCP segment or a UDP datagram.
    init(
        _ ip: InternetProtocol, _ transport: TransportProtocol, payload: [UInt8], tags: [UInt16] = [],
        extensions: [[UInt8]] = [], options: Int = 0, flags: UInt8 = 0x18, fragment: UInt16 = 0
    ) {
        var segment = Frame.header(transport, payload.count, options, flags)
        let length = segment.count + payload.count
        bytes = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        for tag in tags { bytes += [0x81, 0] + Frame.word(tag) }
        if ip == .v4 {
            bytes += [8, 0]
            var header: [UInt8] = [0x45, 0] + Frame.word(UInt16(20 + length)) + [0x12, 0x34] + Frame.word(fragment)
            header += [64, transport.rawValue, 0, 0, 192, 168, 7, 1, 10, 20, 30, 40]
            let sum = Frame.sum(header)
            header[10] = UInt8(~sum >> 8)
            header[11] = UInt8(truncatingIfNeeded: ~sum)
            bytes += header
        } else {
            let more = extensions.reduce(0) { $0 + $1.count }
            let first = extensions.isEmpty ? transport.rawValue : 0
            bytes += [0x86, 0xDD, 0x60, 0, 0, 0] + Frame.word(UInt16(more + length)) + [first, 64]
            bytes += Array(repeating: 0xFD, count: 16) + (0..<16).map { UInt8($0 * 7) }
            for header in extensions { bytes += header }
        }
        segment += payload
        bytes += segment
    }

    private static func header(
        _ transport: TransportProtocol, _ payload: Int, _ options: Int, _ flags: UInt8
    ) -> [UInt8] {
        guard transport == .tcp else { return [0x12, 0x34, 0, 53] + word(UInt16(8 + payload)) + [0, 0] }
        return [
            0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, UInt8((20 + options) / 4) << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0,
        ]
            + Array(repeating: 1, count: options)
    }

    static func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(truncatingIfNeeded: value)] }

    /// RFC 1071, one big-endian word after the other.
    static func sum(_ bytes: [UInt8], from start: UInt16 = 0) -> UInt16 {
        var sum = UInt32(start)
        for index in stride(from: 0, to: bytes.count, by: 2) {
            sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
            sum = (sum & 0xFFFF) + (sum >> 16)
        }
        return UInt16(sum)
    }

    var headers: FrameHeaders? {
        unsafe bytes.withUnsafeBytes { unsafe FrameHeaders($0.baseAddress.unsafelyUnwrapped, count: $0.count) }
    }

    /// The pseudo-header's sum of the transport segment.
    var pseudoSum: UInt16 {
        guard let headers, let transport = headers.transportProtocol else { return 0 }
        let length = UInt16(headers.end - headers.transport)
        let addresses =
            headers.ip == .v4
            ? bytes[headers.network + 12..<headers.network + 20] : bytes[headers.network + 8..<headers.network + 40]
        return Frame.sum(Array(addresses) + Frame.word(UInt16(transport.rawValue)) + Frame.word(length))
    }

    /// What the checksum field says, big-endian.
    var checksum: UInt16 {
        guard let headers, let transport = headers.transportProtocol else { return 0 }
        let field = headers.transport + transport.checksumOffset
        return UInt16(bytes[field]) << 8 | UInt16(bytes[field + 1])
    }

    /// The segment's sum with its pseudo-header is what it must be at a receiver.
    var hasGoodSum: Bool {
        guard let headers else { return false }
        return Frame.sum(Array(bytes[headers.transport..<headers.end]), from: pseudoSum) == 0xFFFF
    }

    var hasGoodHeaderSum: Bool {
        guard let headers, headers.ip == .v4 else { return true }
        return Frame.sum(Array(bytes[headers.network..<headers.network + 20])) == 0xFFFF
    }

    mutating func withMemory<Result>(_ body: (UnsafeMutableRawPointer, Int) throws -> Result) rethrows -> Result {
        // An array of a frame's length is not empty.
        unsafe try bytes.withUnsafeMutableBytes { unsafe try body($0.baseAddress.unsafelyUnwrapped, $0.count) }
    }
}
