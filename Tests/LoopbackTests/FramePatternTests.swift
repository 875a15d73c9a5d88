import Glibc
import Testing

@testable import Loopback

@Suite struct FramePatternTests {
    private func frame(_ pattern: FramePattern, _ number: UInt64) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: pattern.bytes)
        // As long as the pattern's frames.
        unsafe bytes.withUnsafeMutableBytes { buffer in
            if let base = buffer.baseAddress { unsafe pattern.write(number, to: base) }
        }
        return bytes
    }

    private func matches(_ pattern: FramePattern, _ one: [UInt8], _ other: [UInt8]) -> Bool {
        unsafe one.withUnsafeBytes { one in
            unsafe other.withUnsafeBytes { other in
                guard let one = one.baseAddress, let other = other.baseAddress else { return false }
                return unsafe pattern.matches(one, other)
            }
        }
    }

    @Test(arguments: [(62, false), (64, false), (1514, false), (65_226, true)])
    func everyByteCounts(bytes: Int, isSegmented: Bool) {
        let pattern = FramePattern(seed: 7, lane: 2, bytes: bytes, isSegmented: isSegmented)
        let right = frame(pattern, 300)
        #expect(matches(pattern, right, right))
        for index in [0, 20, 49, 60, bytes - 9, bytes - 1] {
            var wrong = right
            wrong[index] ^= 1
            #expect(!matches(pattern, wrong, right), "byte \(index)")
        }
        #expect(frame(pattern, 301) != right)
    }

    /// Who cuts a frame later may change its sum, and nothing else.
    @Test func aSegmentedFramesSumIsNotCompared() {
        let pattern = FramePattern(seed: 7, lane: 0, bytes: 9000, isSegmented: true)
        let right = frame(pattern, 0)
        for (index, isSame) in [(49, false), (50, true), (51, true), (52, false)] {
            var other = right
            other[index] ^= 0xFF
            #expect(matches(pattern, other, right) == isSame, "byte \(index)")
        }
    }

    @Test func aFrameOfSomebodyElseHasNoNumber() {
        let pattern = FramePattern(seed: 7, lane: 2, bytes: 64, isSegmented: false)
        func number(_ bytes: [UInt8]) -> UInt64? {
            unsafe bytes.withUnsafeBytes { buffer in
                guard let base = buffer.baseAddress else { return nil }
                return unsafe pattern.number(base, count: buffer.count)
            }
        }
        #expect(number(frame(pattern, 12)) == 12)
        #expect(number(frame(FramePattern(seed: 7, lane: 3, bytes: 64, isSegmented: false), 12)) == nil)
        #expect(number(frame(FramePattern(seed: 7, lane: 2, bytes: 65, isSegmented: false), 12)) == nil)
        #expect(number([UInt8](repeating: 0, count: 64)) == nil)
    }
}
