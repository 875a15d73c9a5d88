import CXen
import Testing
import XenWire

@Suite struct ControlRequestTests {
    static func judge(
        _ type: UInt16, _ data: (UInt32, UInt32, UInt32) = (0, 0, 0)
    ) -> Result<ControlRequest, ControlStatus> {
        Result { () throws(ControlStatus) in
            try ControlRequest.judge(netif_ctrl_request_wire(id: 7, type: type, data: data))
        }
    }

    @Test func `every request is what netif.h says`() {
        #expect(Self.judge(1) == .success(.getHashTypes))
        #expect(Self.judge(2, (9, 0, 0)) == .success(.setHashTypes([.ipv4, .ipv6TCP])))
        #expect(Self.judge(3, (77, 40, 0)) == .success(.setHashKey(GrantReference(77), length: 40)))
        #expect(Self.judge(4) == .success(.getMappingSize))
        #expect(Self.judge(5, (128, 0, 0)) == .success(.setMappingSize(128)))
        #expect(Self.judge(6, (5, 64, 64)) == .success(.setMapping(GrantReference(5), count: 64, offset: 64)))
        #expect(Self.judge(7, (0, 0, 0)) == .success(.setAlgorithm(.none)))
        #expect(Self.judge(7, (1, 0, 0)) == .success(.setAlgorithm(.toeplitz)))
    }

    /// Among them those of staging grants (8 to 10).
    @Test(arguments: [UInt16(0), 8, 9, 10, 11, 255, 0x8001, .max]) func `others are not supported`(_ type: UInt16) {
        #expect(Self.judge(type) == .failure(.notSupported))
    }

    @Test(
        arguments: [
            (2, [16, 0, 0], ControlStatus.invalidParameter), (2, [0x8000_0001, 0, 0], .invalidParameter),
            (3, [1, 41, 0], .bufferOverflow), (3, [1, .max, 0], .bufferOverflow),
            (5, [129, 0, 0], .invalidParameter), (5, [.max, 0, 0], .invalidParameter),
            (6, [1, 129, 0], .bufferOverflow), (6, [1, .max, 1], .bufferOverflow), (6, [1, 1, 128], .invalidParameter),
            // XSA-270: the sum wraps around to something small.
            (6, [1, 1, .max], .invalidParameter), (6, [1, 128, .max - 127], .invalidParameter),
            (6, [1, 64, 65], .invalidParameter), (7, [2, 0, 0], .invalidParameter),
            (7, [.max, 0, 0], .invalidParameter),
        ] as [(UInt16, [UInt32], ControlStatus)])
    func `what is out of range is named`(_ type: UInt16, _ data: [UInt32], _ status: ControlStatus) {
        #expect(Self.judge(type, (data[0], data[1], data[2])) == .failure(status))
    }

    /// Whatever a guest writes: nothing lies beyond a key, a table or a page.
    @Test func `anything is judged`() {
        var random = SystemRandomNumberGenerator()
        func word() -> UInt32 {
            let near = UInt32.random(in: 0...260, using: &random)
            return [near, 0 &- near, .random(in: 0...(.max), using: &random)].randomElement(using: &random) ?? near
        }
        for _ in 0..<100_000 {
            switch try? Self.judge(.random(in: 0...12, using: &random), (word(), word(), word())).get() {
            case .setHashTypes(let types): #expect(types.isSubset(of: .all))
            case .setHashKey(_, let length): #expect((0...40).contains(length))
            case .setMappingSize(let size): #expect((0...128).contains(size))
            case .setMapping(_, let count, let offset):
                #expect(count >= 0 && offset >= 0 && count + offset <= 128)
            default: break
            }
        }
    }

    @Test func `extra info for the guest has netif's layout`() {
        func bytes(_ extra: ReceiveExtra, isLast: Bool) -> [UInt8] {
            let word = extra.word(isLast: isLast)
            return (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
        }
        let segmentation = ReceiveExtra.segmentation(Segmentation(.tcpV6, size: 0x0102))
        #expect(bytes(segmentation, isLast: false) == [1, 1, 2, 1, 2, 0, 0, 0])
        #expect(bytes(.headroom(256), isLast: true) == [5, 0, 0, 1, 0, 0, 0, 0])
        #expect(bytes(.hash(PacketHash(.ipv6TCP, 0x0102_0304)), isLast: true) == [4, 0, 3, 1, 4, 3, 2, 1])
    }
}
