import CLinux
import Descriptors
import Glibc
import Testing

@testable import Uring

@Suite struct WaitTests {
    @Test(arguments: Engines.kinds)
    func comesBackAfterItsTime(kind: EngineKind) throws {
        let file = try ScratchFile(size: 4096)
        let bells = Bells()
        let engine = try Engines.make(kind, file, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        #expect(engine.wait(nanoseconds: 1_000_000) == [])
        #expect(engine.wait(nanoseconds: 0) == [])
    }

    @Test(arguments: Engines.kinds)
    func tellsWhichDescriptorRang(kind: EngineKind) throws {
        let file = try ScratchFile(size: 4096)
        let bells = Bells()
        let engine = try Engines.make(kind, file, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        for _ in 0..<100 {
            bells.ring(bells.event)
            #expect(engine.wait(nanoseconds: 5_000_000_000) == .event)
            _ = linux_eventfd_take(bells.event.number)
            bells.ring(bells.control)
            #expect(engine.wait(nanoseconds: 5_000_000_000) == .control)
            _ = linux_eventfd_take(bells.control.number)
            #expect(engine.wait(nanoseconds: 0) == [])
        }
    }

    /// A bell that is not answered keeps ringing: no lost wake-up when a queue looks away.
    @Test(arguments: Engines.kinds)
    func unansweredBellsKeepRinging(kind: EngineKind) throws {
        let file = try ScratchFile(size: 4096)
        let bells = Bells()
        let engine = try Engines.make(kind, file, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        bells.ring(bells.event)
        for _ in 0..<3 { #expect(engine.wait(nanoseconds: 5_000_000_000) == .event) }
        _ = linux_eventfd_take(bells.event.number)
        var reasons: WakeReasons = .event
        for _ in 0..<3 where !reasons.isEmpty { reasons = engine.wait(nanoseconds: 0) }
        #expect(reasons.isEmpty)
    }

    @Test(arguments: Engines.kinds)
    func isWokenFromAnotherThread(kind: EngineKind) throws {
        let file = try ScratchFile(size: 4096)
        let bells = Bells()
        let engine = try Engines.make(kind, file, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        let ringer = Ringer(bells.event.number, afterMicroseconds: 20_000)
        #expect(engine.wait(nanoseconds: 10_000_000_000) == .event)
        ringer.join()
    }

    /// Bells and completions mixed, thousands of times: none is lost, whatever the order in the completion queue.
    @Test(arguments: Engines.kinds)
    func bellsAmongCompletionsAreKept(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let bells = Bells()
        let engine = try Engines.make(kind, file, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        let slab = Slab(4 * 4096)
        for round in 0..<2000 {
            if round % 2 == 0 { bells.ring(bells.event) }
            #expect(engine.start((0..<4).map { .plain(.read, slab, at: 0, offset: 0, 4096, tag: $0) }) == 4)
            if round % 2 == 1 { bells.ring(bells.event) }
            var seen: WakeReasons = []
            var ended = 0
            while ended < 4 || !seen.contains(.event) {
                let reasons = engine.wait(nanoseconds: 5_000_000_000)
                try #require(!reasons.isEmpty, "round \(round): slept with \(ended) of 4 ended, seen \(seen)")
                if reasons.contains(.event) { _ = linux_eventfd_take(bells.event.number) }
                seen.formUnion(reasons)
                ended += engine.take(3).count
            }
            #expect(ended == 4)
        }
    }
}

/// A thread that rings an eventfd after a while.
private final class Ringer: Sendable {
    private let thread: pthread_t

    init(_ descriptor: Int32, afterMicroseconds delay: UInt32) {
        var made = pthread_t()
        let order = UnsafeMutablePointer<(Int32, UInt32)>.allocate(capacity: 1)
        unsafe order.initialize(to: (descriptor, delay))
        unsafe pthread_create(
            &made, nil,
            { argument in
                guard let order = unsafe argument?.assumingMemoryBound(to: (Int32, UInt32).self) else { return nil }
                usleep(unsafe order.pointee.1)
                eventfd_write(unsafe order.pointee.0, 1)
                unsafe order.deallocate()
                return nil
            }, order)
        thread = made
    }

    func join() { pthread_join(thread, nil) }
}
