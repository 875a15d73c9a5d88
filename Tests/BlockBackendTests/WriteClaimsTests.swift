import CLinux
import Descriptors
import Glibc
import Testing

@testable import BlockBackend

/// Queues that wait for each other's sectors. Interleavings are the model's (Tests/Models/claims.pml).
struct WriteClaimsTests {
    private static let (low, high) = (ClaimedExtent(start: 0, count: 8), ClaimedExtent(start: 64, count: 8))
    /// Sectors of both words.
    private static let both = ClaimedExtent(start: 0, count: 128)

    /// Three queues and their eventfds.
    private final class Stage {
        let claims = WriteClaims(unit: 512, queues: 3)
        private let events: [Event]

        private final class Event {
            let descriptor: OwnedDescriptor
            init() throws {
                descriptor = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
            }
        }

        init() throws {
            events = try (0..<3).map { _ in try Event() }
            for (queue, event) in events.enumerated() { claims.attach(queue, wakeup: event.descriptor.number) }
        }

        func isWoken(_ queue: Int) -> Bool { linux_eventfd_take(events[queue].descriptor.number) != 0 }
    }

    @Test func `who frees sectors wakes all that wait`() throws {
        let stage = try Stage()
        #expect(stage.claims.take(Self.low, by: 0))
        #expect(!stage.claims.take(Self.low, by: 1) && !stage.claims.take(Self.both, by: 2))
        #expect(!stage.isWoken(1) && !stage.isWoken(2))
        stage.claims.release(Self.low)
        #expect(stage.isWoken(1) && stage.isWoken(2))
    }

    @Test func `who has waited longest goes first`() throws {
        let stage = try Stage()
        #expect(stage.claims.take(Self.low, by: 0))
        #expect(!stage.claims.take(Self.both, by: 1))
        #expect(!stage.claims.take(Self.high, by: 2), "or a claim of many sectors would wait for ever")
        stage.claims.release(Self.low)
        #expect(stage.claims.take(Self.both, by: 1))
        #expect(stage.isWoken(2))
    }

    /// What it had set meanwhile may be all that somebody else has found taken.
    @Test func `who takes back half a claim wakes the others that wait`() throws {
        let stage = try Stage()
        #expect(stage.claims.take(Self.high, by: 0))
        #expect(!stage.claims.take(Self.both, by: 1))
        #expect(!stage.claims.take(Self.high, by: 2))
        #expect(!stage.isWoken(1) && !stage.isWoken(2))
        #expect(!stage.claims.take(Self.both, by: 1))
        #expect(stage.isWoken(2))
        #expect(!stage.isWoken(1), "nor itself, or it would try without end")
    }

    @Test func `who ends while it goes first wakes the others`() throws {
        let stage = try Stage()
        #expect(stage.claims.take(Self.high, by: 0))
        #expect(!stage.claims.take(Self.both, by: 1))
        #expect(!stage.claims.take(Self.low, by: 2))
        stage.claims.leave(1)
        #expect(stage.isWoken(2))
        #expect(stage.claims.take(Self.low, by: 2))
    }
}
