import Testing

@testable import BlockBackend

@Test func discardsShrinkInward() {
    let rules = DiscardRules(granularity: 8, alignment: 3)
    #expect(rules.inward(sector: 3, count: 8) == 3..<11)
    #expect(rules.inward(sector: 0, count: 12) == 3..<11)
    #expect(rules.inward(sector: 4, count: 16) == 11..<19)
    #expect(rules.inward(sector: 4, count: 14) == nil, "no whole unit")
    #expect(rules.inward(sector: 0, count: 2) == nil, "ends before the first unit")
    #expect(rules.inward(sector: .max - 1, count: 8) == nil, "overflows")
}

@Test func discardRangesAreAlwaysInside() {
    var random = SeededGenerator(seed: 3)
    for _ in 0..<20_000 {
        let rules = DiscardRules(
            granularity: UInt64.random(in: 0...64, using: &random),
            alignment: UInt64.random(in: 0...100, using: &random))
        let sector = UInt64.random(in: 0...1000, using: &random)
        let count = UInt64.random(in: 0...500, using: &random)
        guard let range = rules.inward(sector: sector, count: count) else { continue }
        #expect(range.lowerBound >= sector && range.upperBound <= sector + count)
        #expect((range.lowerBound - rules.alignment) % rules.granularity == 0)
        #expect((range.upperBound - rules.alignment) % rules.granularity == 0)
        #expect(range.lowerBound - sector < rules.granularity || sector < rules.alignment)
        #expect(sector + count - range.upperBound < rules.granularity)
    }
}

@Test func chunksGrowWhenTheGuestNeverRunsBesideUs() {
    var chunk = ChunkPolicy(ringSize: 32)
    #expect(chunk.size == ChunkPolicy.smallest)
    for _ in 0..<20 {
        chunk.took(32)
        chunk.burstEnded()
    }
    #expect(chunk.size == 32)
}

@Test func chunksStaySmallWhenTheGuestRunsBesideUs() {
    var chunk = ChunkPolicy(ringSize: 32)
    for _ in 0..<200 {
        chunk.took(32)
        chunk.sawGuestRun()
        chunk.burstEnded()
        #expect(chunk.size == ChunkPolicy.smallest)
    }
}

@Test func grownChunksShrinkAgainWhenTheGuestIsSeen() {
    var chunk = ChunkPolicy(ringSize: 32)
    for _ in 0..<40 {
        chunk.took(32)
        chunk.burstEnded()
    }
    for _ in 0..<2 { chunk.sawGuestRun() }
    #expect(chunk.size == ChunkPolicy.smallest)
}

@Test func spinningEndsWhenItNeverPays() {
    #expect(awake(.forRing, sleeps: 100_000) < 1_500_000, "15 ns a sleep at most")
}

@Test func aSlowVolumeIsNotWaitedForAwake() {
    #expect(awake(.forVolume, sleeps: 100_000) < 100_000 * 1_000, "a microsecond an operation at most")
}

/// Nanoseconds that are spent for nothing before so many sleeps.
private func awake(_ policy: SpinPolicy, sleeps: Int) -> UInt64 {
    var spin = policy
    var spent: UInt64 = 0
    for _ in 0..<sleeps {
        let budget = spin.nextBudget()
        spent += budget
        if budget > 0 { spin.spun(foundWork: false) }
    }
    return spent
}

@Test func aFastVolumeIsWaitedForAwake() {
    var spin = SpinPolicy.forVolume
    for _ in 0..<1_000 {
        #expect(spin.nextBudget() == 200_000)
        spin.spun(foundWork: true)
    }
}

@Test func spinningGoesOnWhileItPays() {
    var spin = SpinPolicy.forRing
    for _ in 0..<10 {
        #expect(spin.nextBudget() > 0)
        spin.spun(foundWork: true)
    }
    #expect(spin.nextBudget() == 50_000)
}

@Test func submissionsAreLazyWhereNoAnswerComesAtOnce() {
    var laziness = Laziness()
    for _ in 0..<Int(Laziness.patience) {
        #expect(!laziness.mayBeLazy, "not known yet")
        laziness.submitted(lazily: false)
        laziness.looked(reaped: 0)
        laziness.looked(reaped: 5)  // a later look says nothing of the submission
    }
    #expect(laziness.mayBeLazy)
    var lazyOnes = 0
    for _ in 0..<640 {
        let lazily = laziness.mayBeLazy
        lazyOnes += lazily ? 1 : 0
        laziness.submitted(lazily: lazily)
        laziness.looked(reaped: lazily ? 1 : 0)
    }
    #expect(lazyOnes == 630, "every 64th asks again")
    while laziness.mayBeLazy { laziness.submitted(lazily: true) }
    laziness.submitted(lazily: false)
    laziness.looked(reaped: 1)
    #expect(!laziness.mayBeLazy, "the volume has become fast")
}
