internal import Glibc

/// Frames that can be told apart: an Ethernet, an IPv4 and a UDP or TCP header, the frame's number, and bytes that follow
/// from seed and number.
///
/// They are for a station that does not exist, so that the host's network looks at them and drops them.
public struct FramePattern: Sendable, BitwiseCopyable {
    public let seed: UInt64
    /// Tells apart who sends at the same time.
    public let lane: UInt16
    /// Bytes of each frame, Ethernet header included.
    public let bytes: Int
    /// A TCP segment that somebody cuts later; else UDP.
    public let isSegmented: Bool

    /// Payload of a piece of a segmented frame.
    public static let segmentPayload: UInt16 = 1448
    /// From the headers and the frame's number to the longest IPv4 packet.
    public static let lengths = (14 + 20 + 20 + 8)...(14 + 65_535)
    /// Where a segmented frame's sum lies, which is its carrier's to change.
    static let sumOffset = 14 + 20 + 16

    public init(seed: UInt64, lane: UInt16, bytes: Int, isSegmented: Bool) {
        self.seed = seed
        self.lane = lane
        self.bytes = bytes
        self.isSegmented = isSegmented
    }

    var payload: Int { isSegmented ? 54 : 42 }

    /// Writes a whole frame; `bytes` of them lie there.
    func write(_ number: UInt64, to frame: UnsafeMutableRawPointer) {
        let headers: [UInt8] = ethernet + internet + (isSegmented ? tcp : udp)
        // The pattern's lengths leave room for all headers and the number.
        unsafe frame.copyMemory(from: headers, byteCount: payload)
        unsafe writePayload(number, to: frame)
    }

    /// Writes what differs between the frames of a pattern.
    func writePayload(_ number: UInt64, to frame: UnsafeMutableRawPointer) {
        unsafe frame.storeBytes(of: number, toByteOffset: payload, as: UInt64.self)
        var random = SeededRandom(seed: seed ^ number << 16 ^ UInt64(lane))
        var offset = payload + 8
        while offset < bytes {
            var word = random.next()
            // No more than what is left of the frame.
            unsafe memcpy(frame + offset, &word, min(8, bytes - offset))
            offset += 8
        }
    }

    /// The number of a frame of this pattern's lane; nil if it is anything else.
    func number(_ frame: UnsafeRawPointer, count: Int) -> UInt64? {
        guard count == bytes else { return nil }
        // `count` bytes are there.
        let isOurs =
            unsafe frame.loadUnaligned(fromByteOffset: 12, as: UInt16.self) == 0x0008
            && frame.loadUnaligned(fromByteOffset: 34, as: UInt16.self) == (40_000 + lane).byteSwapped
        return isOurs ? unsafe frame.loadUnaligned(fromByteOffset: payload, as: UInt64.self) : nil
    }

    /// Whether a frame equals the expected one, the sum that others may change left out.
    func matches(_ frame: UnsafeRawPointer, _ expected: UnsafeRawPointer) -> Bool {
        // Both have `bytes` bytes.
        let sum = isSegmented ? Self.sumOffset : bytes
        return unsafe memcmp(frame, expected, sum) == 0
            && (sum + 2 >= bytes || memcmp(frame + sum + 2, expected + sum + 2, bytes - sum - 2) == 0)
    }

    // MARK: headers

    static let destination: [UInt8] = [2, 0, 0, 0, 0, 0x0B]
    private var ethernet: [UInt8] { Self.destination + [0, 0x16, 0x3E, 0, 0, 1, 8, 0] }

    private static func split(_ value: Int) -> [UInt8] {
        [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
    }

    private var internet: [UInt8] {
        var header: [UInt8] =
            [0x45, 0] + Self.split(bytes - 14) + [0, 0, 0, 0, 64, isSegmented ? 6 : 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        var sum = stride(from: 0, to: 20, by: 2).reduce(0) { $0 + Int(header[$1]) << 8 + Int(header[$1 + 1]) }
        while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
        header.replaceSubrange(10..<12, with: Self.split(~sum & 0xFFFF))
        return header
    }

    private var ports: [UInt8] { Self.split(40_000 + Int(lane)) + Self.split(5001) }
    /// No sum.
    private var udp: [UInt8] { ports + Self.split(bytes - 34) + [0, 0] }
    private var tcp: [UInt8] { ports + [0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0] }
}
