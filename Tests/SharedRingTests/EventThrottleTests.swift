import SharedRing
import Testing

@Suite struct EventThrottleTests {
    @Test func `a few events without requests are normal`() {
        var throttle = EventThrottle()
        for _ in 0..<EventThrottle.patience {
            throttle.tookEvent()
            #expect(throttle.pause == 0)
        }
    }

    @Test func `events that find work are never held up`() {
        var throttle = EventThrottle()
        for _ in 0..<10_000 {
            throttle.tookEvent()
            throttle.foundWork()
            #expect(throttle.pause == 0)
        }
    }

    @Test func `a storm costs longer and longer pauses, up to a bound`() {
        var throttle = EventThrottle()
        var pauses: [UInt64] = []
        for _ in 0..<1000 {
            throttle.tookEvent()
            if throttle.pause > 0 { pauses.append(throttle.pause) }
            throttle.rested()
            #expect(throttle.pause == 0, "after a pause the channel is listened to again")
        }
        #expect(pauses.count == 1000 - EventThrottle.patience)
        #expect(pauses.first == EventThrottle.shortest && pauses.last == EventThrottle.longest)
        #expect(pauses == pauses.sorted())
    }

    @Test func `the first request ends it`() {
        var throttle = EventThrottle()
        for _ in 0..<100 { throttle.tookEvent() }
        #expect(throttle.pause > 0)
        throttle.foundWork()
        #expect(throttle.pause == 0)
        throttle.tookEvent()
        #expect(throttle.pause == 0)
    }
}
