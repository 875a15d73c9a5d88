import CLinux
import Descriptors
import Glibc
import Testing

@testable import Uring

/// What the sleeping call does besides: starts operations, takes events, acknowledges them, keeps a slow clock.
@Suite struct SleepTests {
    @Test func lazyOperationsStartWithTheSleep() throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try UringEngine(file: file.descriptor, capacity: 8)
        try engine.watch(event: -1, control: -1)
        let slab = Slab(4096)
        #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: 5)], lazily: true) == 1)
        for _ in 0..<10 { #expect(engine.take().isEmpty, "it would have been answered from the page cache") }
        #expect(engine.wait(nanoseconds: 10_000_000_000) == .completions)
        #expect(engine.take().map(\.tag) == [5])
    }

    @Test func lazyOperationsStartWithTheNextOnes() throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try UringEngine(file: file.descriptor, capacity: 8)
        try engine.watch(event: -1, control: -1)
        let slab = Slab(4096)
        #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: 1)], lazily: true) == 1)
        #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: 2)], lazily: false) == 1)
        #expect(engine.finish(2).map(\.tag).sorted() == [1, 2])
        #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: 3)], lazily: true) == 1)
        engine.flush()
        #expect(engine.finish(1).map(\.tag) == [3])
    }

    @Test func eventsAreTaken() throws {
        let file = try ScratchFile(size: 4096)
        let bells = Bells()
        let engine = try UringEngine(file: file.descriptor, capacity: 4)
        try engine.watch(event: bells.event.number, control: bells.control.number, takingEvents: true)
        #expect(engine.takesEvents)
        for _ in 0..<100 {
            bells.ring(bells.event)
            #expect(engine.wait(nanoseconds: 5_000_000_000) == .eventTaken)
            #expect(linux_eventfd_take(bells.event.number) == 0, "the engine has taken it")
            bells.ring(bells.control)
            #expect(engine.wait(nanoseconds: 5_000_000_000) == .control)
            _ = linux_eventfd_take(bells.control.number)
            #expect(engine.wait(nanoseconds: 0) == [])
        }
    }

    @Test func whatBlocksIsPolled() throws {
        let file = try ScratchFile(size: 4096)
        let event = OwnedDescriptor(owning: linux_eventfd(UInt32(EFD_CLOEXEC)))
        let engine = try UringEngine(file: file.descriptor, capacity: 4)
        try engine.watch(event: event.number, control: -1, takingEvents: true)
        #expect(!engine.takesEvents)
        eventfd_write(event.number, 1)
        #expect(engine.wait(nanoseconds: 5_000_000_000) == .event)
        #expect(linux_eventfd_take(event.number) == 1, "it is left to the caller")
    }

    /// A descriptor whose reads fail, as an event channel whose buffer ran over: the caller hears of it, and from then on
    /// it is polled.
    @Test func whatCannotBeReadIsLeftToTheCaller() throws {
        let file = try ScratchFile(size: 4096)
        // EBADF: it is open for writing only.
        let event = OwnedDescriptor(owning: unsafe linux_open(file.path, O_WRONLY | O_NONBLOCK, 0))
        let engine = try UringEngine(file: file.descriptor, capacity: 4)
        try engine.watch(event: event.number, control: -1, takingEvents: true)
        #expect(engine.wait(nanoseconds: 5_000_000_000) == .event)
        #expect(!engine.takesEvents)
    }

    @Test func acknowledgementsAreWritten() throws {
        let file = try ScratchFile(size: 4096)
        let pair = try Pair()
        let engine = try UringEngine(file: file.descriptor, capacity: 4)
        try engine.watch(event: pair.own.number, control: -1, takingEvents: true)
        for word in UInt32(1)...100 {
            #expect(engine.wait(.nanoseconds(0), acknowledgement: word) == [])
            #expect(pair.received() == word)
        }
        #expect(engine.overflows == 0)
    }

    /// One that fails brings a completion; it is nobody's operation and no reason to wake up the queue.
    @Test func aFailedAcknowledgementIsHarmless() throws {
        let file = try ScratchFile(size: 1 << 16)
        let bells = Bells()
        let engine = try UringEngine(file: file.descriptor, capacity: 1)
        // An eventfd takes eight bytes, not four.
        try engine.watch(event: bells.event.number, control: -1, takingEvents: true)
        let slab = Slab(4096)
        for tag in UInt32(0)..<100 {
            #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: tag)], lazily: true) == 1)
            _ = engine.wait(.nanoseconds(1_000_000), acknowledgement: 1)
            #expect(engine.finish(1).map(\.tag) == [tag])
        }
        #expect(engine.overflows == 0)
    }

    /// A tick ends a wait that has nothing else to tell, and none is owed twice.
    @Test(arguments: Engines.kinds)
    func ticksEndWaits(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try Engines.started(kind, file, capacity: 1)
        let slab = Slab(4096)
        for tag in UInt32(0)..<200 {
            #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 4096, tag: tag)], lazily: true) == 1)
            var reasons = engine.wait(.tick(nanoseconds: 1_000_000), acknowledgement: nil)
            while reasons.isEmpty { reasons = engine.wait(.tick(nanoseconds: 1_000_000), acknowledgement: nil) }
            #expect(engine.take().map(\.tag) == [tag])
        }
        for _ in 0..<3 {
            while !engine.wait(.tick(nanoseconds: 1_000_000), acknowledgement: nil).isEmpty {}  // libaio's are stale
        }
        #expect((engine as? UringEngine)?.overflows ?? 0 == 0)
    }
}

/// Two connected sockets.
private struct Pair: ~Copyable {
    let own: OwnedDescriptor
    let peer: OwnedDescriptor

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        own = OwnedDescriptor(owning: ends[0])
        peer = OwnedDescriptor(owning: ends[1])
        for end in ends { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    }

    func received() -> UInt32? {
        var word: UInt32 = 0
        return unsafe read(peer.number, &word, 4) == 4 ? word : nil
    }
}

extension Engine {
    fileprivate func start(_ operations: [IOOperation], lazily: Bool) -> Int {
        unsafe operations.withUnsafeBufferPointer { table in
            guard let base = table.baseAddress else { return 0 }
            return unsafe submit(base, count: table.count, lazily: lazily)
        }
    }
}
