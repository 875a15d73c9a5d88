import Telemetry
import Testing

struct LineBudgetTests {
    static let second: UInt64 = 1_000_000_000

    @Test func `a burst is written, the rest is suppressed and counted`() {
        let budget = LineBudget(burst: 3, perSecond: 1, now: 0)
        for _ in 0..<3 { #expect(budget.decide(now: 0) == .write(suppressed: 0)) }
        for _ in 0..<5 { #expect(budget.decide(now: 0) == .suppress) }
        #expect(budget.decide(now: Self.second) == .write(suppressed: 5))
        #expect(budget.decide(now: Self.second) == .suppress)
    }

    @Test func `an hour of flooding gets its lines per second and no more`() {
        let budget = LineBudget(burst: 10, perSecond: 2, now: 5)
        var written = 0
        for step in 0..<36_000 {
            if case .write = budget.decide(now: 5 + UInt64(step) * Self.second / 10) { written += 1 }
        }
        #expect((7200...7210).contains(written))
    }

    @Test func `rest does not save up more than a burst`() {
        let budget = LineBudget(burst: 2, perSecond: 1000, now: 0)
        let later = 1000 * Self.second
        #expect(budget.decide(now: later) == .write(suppressed: 0))
        #expect(budget.decide(now: later) == .write(suppressed: 0))
        #expect(budget.decide(now: later) == .suppress)
    }

    @Test(arguments: [0, UInt64.max])
    func `clocks that jump do no harm`(_ now: UInt64) {
        let budget = LineBudget(burst: 1, perSecond: 1, now: 1000)
        #expect(budget.decide(now: now) == .write(suppressed: 0))
        #expect(budget.decide(now: 0) == .suppress)
    }
}
