internal import SharedRing

/// What a claim on a stretch of the volume excludes.
public enum ExtentKind: UInt8, Sendable, BitwiseCopyable {
    /// A plain write: may run beside other plain writes, overlapping or not, as on any disk.
    case write
    /// A read-modify-write, or a write whose order matters: alone on its sectors among write-class operations.
    case exclusive
    /// Alone on the device: after everything that was claimed before it, before everything that is claimed after.
    case barrier
}

/// The wish to write somewhere, and what became of it.
public struct ExtentClaim: Sendable, BitwiseCopyable {
    /// First sector; for a read-modify-write that of its first whole block.
    public var start: UInt64
    /// The sector after the last.
    public var end: UInt64
    /// The claimant's own name for it.
    public var tag: UInt32
    /// What it excludes.
    public var kind: ExtentKind
    /// Set by `enter`.
    public var outcome = Outcome.full
    /// Set by `enter`, for `leave`.
    public var ticket: UInt16 = 0

    /// What `enter` decided.
    public enum Outcome: UInt8, Sendable, BitwiseCopyable {
        /// Go ahead; `leave` with the ticket.
        case granted
        /// It has its place in the order: its tag comes out of `takeGranted` when its time has come. `leave` after that.
        case waits
        /// No room in the table and no place in the order: enter again, at the latest when woken.
        case full
    }

    /// A wish; a barrier's range does not count.
    public init(_ kind: ExtentKind, start: UInt64, end: UInt64, tag: UInt32) {
        self.kind = kind
        self.start = start
        self.end = end
        self.tag = tag
    }

    /// The rule: whether the later of two claims must wait for the earlier.
    func conflicts(with other: ExtentClaim) -> Bool {
        if kind == .barrier || other.kind == .barrier { return true }
        if kind == .write && other.kind == .write { return false }
        return start < other.end && other.start < end
    }
}

/// Who claims: the queues of one device, 0 to 63.
public typealias ExtentOwner = UInt8

/// All claims of one device in the order of their arrival: each is granted as soon as no earlier claim that it conflicts
/// with is left. So nothing waits in a circle, and nothing waits for what came later.
///
/// A claim costs a walk over the claims that are there; no allocation. Pure: locking and waking are `DeviceExtents`'.
struct ExtentTable: ~Copyable {
    private let entries: FixedTable<Entry>
    private var free: FreeList
    private var oldest = Entry.none
    private var newest = Entry.none
    /// Owners that were turned away since somebody last left, as bits.
    private var turnedAway: UInt64 = 0
    /// Owners with grants that they have not taken, as bits.
    private var untaken: UInt64 = 0

    /// A claim in its place. (Not private: Swift 6.3 then fails to compile modules that destroy a table.)
    struct Entry: BitwiseCopyable {
        var claim = ExtentClaim(.write, start: 0, end: 0, tag: 0)
        /// Earlier claims that it still waits for.
        var blockers: UInt16 = 0
        var older = Entry.none
        var newer = Entry.none
        var owner: ExtentOwner = 0
        /// Granted after it had to wait, and not yet taken.
        var isUntaken = false

        static var none: UInt16 { .max }
    }

    /// Room for `capacity` claims, from 1 to 65,534.
    init(capacity: Int) {
        let count = min(max(capacity, 1), Int(UInt16.max) - 1)
        entries = FixedTable(repeating: Entry(), count: count)
        free = FreeList(count: UInt16(count))
    }

    /// Decides a claim and gives it its place.
    mutating func enter(_ claim: inout ExtentClaim, owner: ExtentOwner) {
        guard let index = free.pop() else {
            turnedAway |= bit(owner)
            claim.outcome = .full
            return
        }
        let blockers = conflicts(with: claim)
        claim.ticket = index
        claim.outcome = blockers == 0 ? .granted : .waits
        entries[Int(index)] = Entry(claim: claim, blockers: blockers, older: newest, owner: owner)
        append(index)
    }

    private func conflicts(with claim: ExtentClaim) -> UInt16 {
        var count: UInt16 = 0
        var index = oldest
        while index != Entry.none {
            if claim.conflicts(with: entries[Int(index)].claim) { count &+= 1 }
            index = entries[Int(index)].newer
        }
        return count
    }

    private mutating func append(_ index: UInt16) {
        if newest == Entry.none { oldest = index } else { entries[Int(newest)].newer = index }
        newest = index
    }

    /// Ends a claim that was granted, or gives up one that waits.
    ///
    /// - Returns: as bits, the owners that have something to do now: grants to take, or a claim to enter again.
    mutating func leave(_ ticket: UInt16) -> UInt64 {
        let gone = entries[Int(ticket)]
        var woken = turnedAway
        turnedAway = 0
        var index = gone.newer
        while index != Entry.none {
            if entries[Int(index)].claim.conflicts(with: gone.claim) { woken |= unblock(index) }
            index = entries[Int(index)].newer
        }
        unlink(gone)
        free.push(ticket)
        return woken
    }

    private mutating func unblock(_ index: UInt16) -> UInt64 {
        entries[Int(index)].blockers &-= 1
        guard entries[Int(index)].blockers == 0 else { return 0 }
        entries[Int(index)].isUntaken = true
        untaken |= bit(entries[Int(index)].owner)
        return bit(entries[Int(index)].owner)
    }

    private mutating func unlink(_ entry: Entry) {
        if entry.older == Entry.none { oldest = entry.newer } else { entries[Int(entry.older)].newer = entry.newer }
        if entry.newer == Entry.none { newest = entry.older } else { entries[Int(entry.newer)].older = entry.older }
    }

    /// The tag of a claim of this owner that had to wait and may go ahead now, oldest first; nil: no more.
    mutating func takeGranted(_ owner: ExtentOwner) -> UInt32? {
        guard untaken & bit(owner) != 0 else { return nil }
        var index = oldest
        while index != Entry.none {
            if entries[Int(index)].owner == owner && entries[Int(index)].isUntaken {
                entries[Int(index)].isUntaken = false
                return entries[Int(index)].claim.tag
            }
            index = entries[Int(index)].newer
        }
        untaken &= ~bit(owner)
        return nil
    }

    /// Claims in the table.
    var count: Int { entries.count - free.count }

    private func bit(_ owner: ExtentOwner) -> UInt64 { 1 << UInt64(owner & 63) }
}
