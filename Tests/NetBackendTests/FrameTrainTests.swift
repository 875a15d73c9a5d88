import Loopback
import Testing

@testable import NetBackend

@Suite struct FrameTrainTests {
    private func run(_ train: inout FrameTrain, _ frames: Int, bytes: Int = 64) {
        for _ in 0..<frames { train.add(bytes: bytes) }
        train.end()
    }

    @Test func nothingIsExpectedAtFirst() {
        #expect(FrameTrain().ahead == 0)
    }

    @Test func trainsLikeThoseBeforeAreReadTogether() {
        var train = FrameTrain()
        for _ in 0..<20 { run(&train, 400) }
        #expect(train.ahead == 350)
        for _ in 0..<340 { train.add(bytes: 64) }
        #expect(train.ahead == 20 || train.ahead == 21)
        for _ in 0..<20 { train.add(bytes: 64) }
        // The end may be near: one by one.
        #expect(train.ahead == 0 || train.ahead == 22)
    }

    @Test func aShortTrainCountsAtOnceAndALongOneBitByBit() {
        var train = FrameTrain()
        for _ in 0..<20 { run(&train, 400) }
        run(&train, 4)
        #expect(train.ahead == 0)
        run(&train, 400)
        #expect(train.ahead < 100)
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
                let ahead = min(train.ahead, 64)
                let read = ahead == 0 ? 1 : min(ahead, left)
                for _ in 0..<read { train.add(bytes: 64) }
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
        for _ in 0..<2048 { train.add(bytes: 1514) }
        #expect(train.ahead >= 64)
    }

    @Test func longFramesAreReadOneByOne() {
        var train = FrameTrain()
        for _ in 0..<20 { run(&train, 400) }
        train.add(bytes: 60_000)
        #expect(train.ahead == 0)
        train.end()
        #expect(train.ahead == 0)
    }
}
