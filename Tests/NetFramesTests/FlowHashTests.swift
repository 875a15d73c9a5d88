import NetFrames
import Testing
import XenWire

/// Against the vectors of Microsoft's RSS specification ("Verifying the RSS Hash Calculation").
@Suite struct FlowHashTests {
    static let key: [UInt8] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F, 0xB0, 0xD0, 0xCA,
        0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30, 0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B,
        0xBE, 0xAC, 0x01, 0xFA,
    ]

    struct Vector: Sendable {
        let source: [UInt8], sourcePort: UInt16, destination: [UInt8], destinationPort: UInt16
        let addresses: UInt32, tcp: UInt32
    }

    static let v4 = [
        Vector(
            source: [66, 9, 149, 187], sourcePort: 2794, destination: [161, 142, 100, 80], destinationPort: 1766,
            addresses: 0x323E_8FC2, tcp: 0x51CC_C178),
        Vector(
            source: [199, 92, 111, 2], sourcePort: 14230, destination: [65, 69, 140, 83], destinationPort: 4739,
            addresses: 0xD718_262A, tcp: 0xC626_B0EA),
        Vector(
            source: [24, 19, 198, 95], sourcePort: 12898, destination: [12, 22, 207, 184], destinationPort: 38024,
            addresses: 0xD2D0_A5DE, tcp: 0x5C2B_394A),
        Vector(
            source: [38, 27, 205, 30], sourcePort: 48228, destination: [209, 142, 163, 6], destinationPort: 2217,
            addresses: 0x8298_9176, tcp: 0xAFC7_327F),
        Vector(
            source: [153, 39, 163, 191], sourcePort: 44251, destination: [202, 188, 127, 2], destinationPort: 1303,
            addresses: 0x5D18_09C5, tcp: 0x10E8_28A2),
    ]

    private static func address(_ words: [UInt16]) -> [UInt8] {
        words.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
    }

    static let v6 = [
        Vector(
            source: address([0x3FFE, 0x2501, 0x200, 0x1FFF, 0, 0, 0, 7]), sourcePort: 2794,
            destination: address([0x3FFE, 0x2501, 0x200, 3, 0, 0, 0, 1]), destinationPort: 1766,
            addresses: 0x2CC1_8CD5, tcp: 0x4020_7D3D),
        Vector(
            source: address([0x3FFE, 0x501, 8, 0, 0x260, 0x97FF, 0xFE40, 0xEFAB]), sourcePort: 14230,
            destination: address([0xFF02, 0, 0, 0, 0, 0, 0, 1]), destinationPort: 4739,
            addresses: 0x0F0C_461C, tcp: 0xDDE5_1BBF),
        Vector(
            source: address([0x3FFE, 0x1900, 0x4545, 3, 0x200, 0xF8FF, 0xFE21, 0x67CF]), sourcePort: 44251,
            destination: address([0xFE80, 0, 0, 0, 0x200, 0xF8FF, 0xFE21, 0x67CF]), destinationPort: 38024,
            addresses: 0x4B61_E985, tcp: 0x02D1_FEEF),
    ]

    /// A frame of a flow: `transport` is 6 for TCP; `fragment` the IPv4 header's flags and offset.
    static func frame(_ vector: Vector, transport: UInt8 = 6, fragment: UInt16 = 0, tag: Bool = false) -> [UInt8] {
        let ports = [vector.sourcePort, vector.destinationPort].flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
        let segment = ports + [UInt8](repeating: 0, count: 8) + [0x50] + [UInt8](repeating: 0, count: 7)
        let type: [UInt8] = (tag ? [0x81, 0, 0, 5] : []) + (vector.source.count == 4 ? [8, 0] : [0x86, 0xDD])
        let link: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2] + type
        let packet: [UInt8] =
            vector.source.count == 4
            ? [0x45, 0, 0, 40, 0, 1, UInt8(fragment >> 8), UInt8(fragment & 255), 64, transport, 0, 0]
            : [0x60, 0, 0, 0, 0, 20, transport, 64]
        return link + packet + vector.source + vector.destination + segment
    }

    static func hash(_ frame: [UInt8], _ types: HashTypes, _ key: [UInt8] = key) -> PacketHash? {
        let key = key + [UInt8](repeating: 0, count: ControlRequest.longestKey - key.count)
        return unsafe frame.withUnsafeBytes { bytes in
            unsafe key.withUnsafeBufferPointer { key in
                guard let start = bytes.baseAddress, let key = key.baseAddress else { return nil }
                return unsafe FlowHash.of(start, count: bytes.count, types, key: key)
            }
        }
    }

    @Test(arguments: v4) func `IPv4 hashes as published`(_ vector: Vector) {
        #expect(Self.hash(Self.frame(vector), .all) == PacketHash(.ipv4TCP, vector.tcp))
        #expect(Self.hash(Self.frame(vector), [.ipv4, .ipv6TCP]) == PacketHash(.ipv4, vector.addresses))
        #expect(Self.hash(Self.frame(vector, transport: 17), .all) == PacketHash(.ipv4, vector.addresses))
        #expect(Self.hash(Self.frame(vector, tag: true), .all) == PacketHash(.ipv4TCP, vector.tcp))
        #expect(Self.hash(Self.frame(vector), [.ipv6, .ipv6TCP]) == nil)
    }

    @Test(arguments: v6) func `IPv6 hashes as published`(_ vector: Vector) {
        #expect(Self.hash(Self.frame(vector), .all) == PacketHash(.ipv6TCP, vector.tcp))
        #expect(Self.hash(Self.frame(vector), [.ipv6, .ipv4TCP]) == PacketHash(.ipv6, vector.addresses))
        #expect(Self.hash(Self.frame(vector, transport: 58), .all) == PacketHash(.ipv6, vector.addresses))
        #expect(Self.hash(Self.frame(vector), [.ipv4, .ipv4TCP]) == nil)
    }

    /// The later ones have no ports, and all must go the same way.
    @Test(arguments: [UInt16(0x2000), 0x0010, 0x3FFF]) func `fragments hash by their addresses`(_ fragment: UInt16) {
        let frame = Self.frame(Self.v4[0], fragment: fragment)
        #expect(Self.hash(frame, .all) == PacketHash(.ipv4, Self.v4[0].addresses))
        #expect(Self.hash(frame, .ipv4TCP) == nil)
    }

    @Test func `what is no IP has no hash, and neither has what is cut`() {
        var other = Self.frame(Self.v4[0])
        other[13] = 6
        #expect(Self.hash(other, .all) == nil)
        for count in 0..<Self.frame(Self.v4[0]).count {
            #expect(Self.hash(Array(Self.frame(Self.v4[0]).prefix(count)), .all) == nil)
        }
        #expect(Self.hash(Self.frame(Self.v4[0]), []) == nil)
    }

    /// netif.h: "specifying a key size of zero ... ensures that the calculated hash will always be zero".
    @Test func `an empty key hashes everything to zero, and a short one ends in zeros`() {
        #expect(Self.hash(Self.frame(Self.v4[0]), .all, []) == PacketHash(.ipv4TCP, 0))
        #expect(Self.hash(Self.frame(Self.v6[0]), .all, [0x80]) == PacketHash(.ipv6TCP, Self.single(Self.v6[0])))
    }

    /// Of a key that is one bit, only the first bits of the data meet it: bit n of the data adds it shifted by n.
    private static func single(_ vector: Vector) -> UInt32 {
        // The window is at the key's first bit for the data's first bit only.
        vector.source[0] & 0x80 == 0 ? 0 : 0x8000_0000
    }
}
