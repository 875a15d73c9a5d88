import Testing

@testable import NetBackend

@Suite struct RateLimitTests {
    /// 10 Mbit/s as xl writes it: 62,500 bytes in 50 ms, 800 ns for a byte.
    private static let tenMegabits = TransferRate(bytes: 62_500, microseconds: 50_000)

    @Test func `a burst of 128 KiB passes, then the rate`() throws {
        let limit = RateLimit(Self.tenMegabits)
        let start: UInt64 = 1_000_000_000_000
        #expect((0..<128).allSatisfy { _ in limit.take(1024, now: start) == 0 })
        #expect(limit.take(1000, now: start) == 800_000)
        #expect(limit.take(1000, now: start + 799_999) == 1)
        #expect(limit.take(1000, now: start + 800_000) == 0)
        #expect(limit.take(1, now: start + 800_000) == 800, "what was refused was not charged")
    }

    @Test func `what passes in a long time is the rate and one burst, whoever asks`() throws {
        let limit = RateLimit(Self.tenMegabits)
        var bytes = 0
        for step in 0..<100_000 {
            let now = 5_000_000_000 + UInt64(step) * 100_000
            let size = 60 + step * 7919 % 1455
            if limit.take(size, now: now) == 0 { bytes += size }
        }
        let expected = 1_250_000 * 10 + 131_072
        #expect(bytes <= expected && bytes > expected - 5_000)
    }

    @Test func `idle time earns no more than one burst`() throws {
        let limit = RateLimit(Self.tenMegabits)
        let later: UInt64 = 1 << 60
        #expect(limit.take(65_535, now: later) == 0 && limit.take(65_535, now: later) == 0)
        #expect(limit.take(1514, now: later) > 0)
    }

    @Test func `a new rate holds at once, whatever passed before`() throws {
        let limit = RateLimit(TransferRate(bytes: 1, microseconds: UInt64(UInt32.max)))
        #expect(limit.isSet && limit.take(65_535, now: 1) == 0 && limit.take(65_535, now: 1) == 0)
        #expect(limit.take(65_535, now: 1) > 1 << 40)
        limit.set(Self.tenMegabits)
        #expect(limit.take(1514, now: 1) == 0)
        limit.set(nil)
        #expect(!limit.isSet)
        #expect((0..<10_000).allSatisfy { _ in limit.take(65_535, now: 2) == 0 })
    }

    @Test(
        arguments: [
            (0, 1), (1, 0), (1, UInt64(UInt32.max) + 1), ((1 << 40) + 1, 1), (.max, .max), (0, 0),
        ] as [(UInt64, UInt64)])
    func `rates out of range are none`(bytes: UInt64, microseconds: UInt64) {
        #expect(TransferRate(bytes: bytes, microseconds: microseconds) == nil)
    }

    @Test(
        arguments: [(1, UInt64(UInt32.max)), (1 << 40, 1), (1 << 40, UInt64(UInt32.max)), (1, 1)] as [(UInt64, UInt64)])
    func `the ends of the range are counted right`(bytes: UInt64, microseconds: UInt64) throws {
        let limit = RateLimit(TransferRate(bytes: bytes, microseconds: microseconds))
        #expect(limit.take(65_535, now: 1) == 0 && limit.take(65_535, now: 1) == 0)
    }
}

@Suite struct ReceivePatienceTests {
    private static let second: UInt64 = 1_000_000_000

    @Test func `what waits is thrown away every ten seconds, and after a minute the interface is stalled`() {
        var patience = ReceivePatience()
        var discards: [UInt64] = []
        for tick in 1...80 {
            let now = UInt64(tick) * Self.second
            guard patience.mustDiscard(lacksBuffers: true, now: now) else { continue }
            #expect(!patience.isStalled)
            discards.append(UInt64(tick))
            patience.discarded(3, now: now)
            if patience.isStalled { break }
        }
        #expect(discards == [11, 21, 31, 41, 51, 61] && patience.isStalled)
        let mustDiscard = patience.mustDiscard(lacksBuffers: false, now: 62 * Self.second)
        #expect(!mustDiscard && !patience.isStalled && patience.deadline == .max)
    }

    @Test func `a guest to which nobody sends is not stalled`() {
        var patience = ReceivePatience()
        for tick in 1...1000 {
            let now = UInt64(tick) * Self.second
            if patience.mustDiscard(lacksBuffers: true, now: now) { patience.discarded(0, now: now) }
            #expect(!patience.isStalled)
        }
    }

    @Test func `a guest that does not tell of its buffers loses frames soon, and is never stalled`() {
        var patience = ReceivePatience(notifies: false)
        var discards = 0
        for tick in 1...1000 {
            let now = UInt64(tick) * Self.second / 100
            guard patience.mustDiscard(lacksBuffers: true, now: now) else { continue }
            discards += 1
            patience.discarded(3, now: now)
        }
        // Each time three steps of ten milliseconds have passed.
        #expect(discards == 333 && !patience.isStalled)
    }

    @Test func `buffers in between begin it anew`() {
        var patience = ReceivePatience()
        for tick in 1...1000 {
            let now = UInt64(tick) * Self.second
            let mustDiscard = patience.mustDiscard(lacksBuffers: tick % 9 != 0, now: now)
            #expect(!mustDiscard)
        }
    }
}
