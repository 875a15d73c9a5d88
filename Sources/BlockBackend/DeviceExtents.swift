internal import CLinux
internal import Synchronization

/// The extent table of one device, shared by its queues: what must hold across them (read-modify-write, barriers, the
/// order of overlapping writes). Called once per chunk, in which it takes one lock for the whole chunk.
///
/// Only devices that need it ask it: where operations may be smaller than the volume's unit, or barriers are offered, all
/// writes and discards claim their sectors here before they start, and leave when they have ended.
public final class DeviceExtents: Sendable {
    private let table: Mutex<ExtentTable>
    private let wakeups: Mutex<[Int32?]>

    /// For `capacity` claims of all queues together.
    public init(capacity: Int) {
        table = Mutex(ExtentTable(capacity: capacity))
        wakeups = Mutex(Array(repeating: nil, count: 64))
    }

    /// A new claimant, woken through an eventfd that stays open until `detach`; nil if there are 64 already.
    public func attach(wakeup: Int32) -> ExtentOwner? {
        wakeups.withLock { all in
            guard let index = all.firstIndex(of: nil) else { return nil }
            all[index] = wakeup
            return ExtentOwner(index)
        }
    }

    /// Ends a claimant that has left with all its tickets.
    public func detach(_ owner: ExtentOwner) {
        wakeups.withLock { $0[Int(owner & 63)] = nil }
    }

    /// Decides `count` claims in order and sets the `outcome` and `ticket` of each.
    public func enter(_ claims: UnsafeMutablePointer<ExtentClaim>, count: Int, owner: ExtentOwner) {
        table.withLock { table in
            for index in 0..<max(0, count) { unsafe table.enter(&claims[index], owner: owner) }
        }
    }

    /// Ends granted claims and wakes the other owners that can go on.
    ///
    /// - Returns: whether the owner itself has something to do: grants to take, or a claim to enter again.
    public func leave(_ tickets: UnsafePointer<UInt16>, count: Int, owner: ExtentOwner) -> Bool {
        let woken = table.withLock { table in
            var woken: UInt64 = 0
            for index in 0..<max(0, count) { unsafe woken |= table.leave(tickets[index]) }
            return woken
        }
        let own: UInt64 = 1 << UInt64(owner & 63)
        wake(woken & ~own)
        return woken & own != 0
    }

    private func wake(_ owners: UInt64) {
        guard owners != 0 else { return }
        wakeups.withLock { all in
            for index in 0..<64 where owners & 1 << UInt64(index) != 0 {
                if let descriptor = all[index] { linux_eventfd_signal(descriptor) }
            }
        }
    }

    /// Moves the tags of claims that had to wait and may go ahead now into `tags`, oldest first; how many.
    public func takeGranted(_ tags: UnsafeMutablePointer<UInt32>, capacity: Int, owner: ExtentOwner) -> Int {
        table.withLock { table in
            var count = 0
            while count < capacity, let tag = table.takeGranted(owner) {
                unsafe tags[count] = tag
                count += 1
            }
            return count
        }
    }
}
