import CLinux
import Descriptors
import Testing

@testable import BlockBackend

@Suite struct DeviceExtentsTests {
    /// Two queues of one device: the second one's claim is granted by the first one's leaving, and its eventfd rings.
    @Test func leavingWakesTheQueueThatWaits() throws {
        let extents = DeviceExtents(capacity: 8)
        let bells = try (0..<2).map { _ in try Bell() }
        let first = try #require(extents.attach(wakeup: bells[0].number))
        let second = try #require(extents.attach(wakeup: bells[1].number))
        let early = extents.claims([ExtentClaim(.exclusive, start: 0, end: 8, tag: 1)], first)
        let late = extents.claims(
            [ExtentClaim(.exclusive, start: 4, end: 8, tag: 2), ExtentClaim(.barrier, start: 0, end: 0, tag: 3)], second
        )
        #expect(early.map(\.outcome) == [.granted])
        #expect(late.map(\.outcome) == [.waits, .waits])
        #expect(!bells[1].hasRung)
        #expect(!extents.leaves(early, first))
        #expect(!bells[0].hasRung && bells[1].hasRung)
        #expect(extents.granted(second) == [2])
        // Its own barrier comes next: it is told directly, not through its eventfd.
        #expect(extents.leaves([late[0]], second))
        #expect(!bells[1].hasRung)
        #expect(extents.granted(second) == [3])
        #expect(!extents.leaves([late[1]], second))
    }

    @Test func sixtyFourQueuesAtMost() {
        let extents = DeviceExtents(capacity: 8)
        #expect((0..<64).allSatisfy { extents.attach(wakeup: -1) == ExtentOwner($0) })
        #expect(extents.attach(wakeup: -1) == nil)
        extents.detach(7)
        #expect(extents.attach(wakeup: -1) == 7)
    }
}

/// A non-blocking eventfd.
private final class Bell {
    private let descriptor: OwnedDescriptor
    init() throws { descriptor = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "eventfd") }
    var number: Int32 { descriptor.number }
    var hasRung: Bool { linux_eventfd_take(number) == 1 }
}

extension DeviceExtents {
    fileprivate func claims(_ wishes: [ExtentClaim], _ owner: ExtentOwner) -> [ExtentClaim] {
        var wishes = wishes
        unsafe wishes.withUnsafeMutableBufferPointer { table in
            guard let base = table.baseAddress else { return }
            unsafe enter(base, count: table.count, owner: owner)
        }
        return wishes
    }

    fileprivate func leaves(_ claims: [ExtentClaim], _ owner: ExtentOwner) -> Bool {
        let tickets = claims.map(\.ticket)
        return unsafe tickets.withUnsafeBufferPointer { table in
            guard let base = table.baseAddress else { return false }
            return unsafe leave(base, count: table.count, owner: owner)
        }
    }

    fileprivate func granted(_ owner: ExtentOwner) -> [UInt32] {
        var tags = [UInt32](repeating: 0, count: 8)
        let count = unsafe tags.withUnsafeMutableBufferPointer { table in
            guard let base = table.baseAddress else { return 0 }
            return unsafe takeGranted(base, capacity: table.count, owner: owner)
        }
        return Array(tags.prefix(count))
    }
}
