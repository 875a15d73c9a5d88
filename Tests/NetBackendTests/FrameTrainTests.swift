import Loopback
import Testing

@testable import NetBackend

@Suite struct FrameTrainTests {
    private func run(_ train: inout FrameTrain, _ frames: Int, bytes: Int = 64) {
        for _ in 0..<frames { train.add(1, longest: bytes) }
        train.end()
    }

    @Test func nothingIsExpectedAtFirst() {
        #expect(FrameTrain().ahead(limit: 500) == 0)
    }

    @Test func trainsOfOneLengthAreReadTogetherToTheLastFrame() {
        var train = FrameTrain()
        for _ in 0..<30 { run(&train, 400) }
        #expect(train.ahead(limit: 500) == 400)
        #expect(train.ahead(limit: 64) == 64)
        // Fewer are not worth the call.
        #expect(train.ahead(limit: 5) == 0)
        for _ in 0..<390 { train.add(1, longest: 64) }
        #expect(train.ahead(limit: 500) == 10)
        for _ in 0..<10 { train.add(1, longest: 64) }
        // This is probably the end: one by one.
        #expect(train.ahead(limit: 500) == 0)
    }

    @Test func behindAShorterTrainSomethingIsSpared() {
        var train = FrameTrain()
        for _ in 0..<30 { run(&train, 400) }
        run(&train, 320)
        #expect(train.ahead(limit: 500) == 280)
    }

    @Test func aShortTrainCountsAtOnceAndALongOneBitByBit() {
        var train = FrameTrain()
        for _ in 0..<20 { run(&train, 400) }
        run(&train, 4)
        #expect(train.ahead(limit: 500) == 0)
        run(&train, 400)
        #expect(train.ahead(limit: 500) < 110)
    }

    /// However the lengths vary: reads too many are few, for each costs more than it could save.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func fewReadsFindNothing(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var train = FrameTrain()
        var (together, tooMany) = (0, 0)
        for _ in 0..<1000 {
            var left = Int(random.next() % 400)
            while left > 0 {
                let ahead = train.ahead(limit: 64)
                let read = ahead == 0 ? 1 : min(ahead, left)
                for _ in 0..<read { train.add(1, longest: 64) }
                left -= read
                guard ahead > 0 else { continue }
                together += read
                tooMany += ahead - read
            }
            train.end()
        }
        #expect(tooMany * 8 < together)
    }

    @Test func aTrainWithoutEndIsReadTogether() {
        var train = FrameTrain()
        for _ in 0..<2048 { train.add(1, longest: 1514) }
        #expect(train.ahead(limit: 500) >= 64)
    }

    @Test func longFramesAreReadOneByOne() {
        var train = FrameTrain()
        for _ in 0..<20 { run(&train, 400) }
        train.add(1, longest: 60_000)
        #expect(train.ahead(limit: 500) == 0)
        train.end()
        #expect(train.ahead(limit: 500) == 0)
    }
}
