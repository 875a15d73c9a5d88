internal import SharedRing
internal import XenWire

// Claims on stretches of the device, where something must hold across its queues: read-modify-write, barriers. Other
// devices have no extent table, and nothing here is called for them.
extension QueueCore {
    /// No ticket of the extent table.
    static var noTicket: UInt16 { .max }

    /// Starts a part that changes the volume, or claims its sectors first.
    mutating func startWrite(_ index: UInt16) {
        let part = parts[Int(index)]
        // A barrier has the whole device, claimed by the request.
        guard shared.extents != nil, slots[Int(part.slot)].ticket == Self.noTicket else { return proceed(index) }
        let first = part.offset / Sector.size
        let kind: ExtentKind = part.stage == .fill ? .exclusive : .write
        claim(kind, first, first &+ part.claimedBytes / Sector.size, index | Owner.part)
    }

    /// Lets a barrier claim the device once everything that was taken before it has claimed its sectors: segment tables
    /// have to arrive for that, and there has to be memory.
    mutating func awaitDevice(_ index: UInt16) {
        isBehindBarrier = true
        settle()
        guard stalled.isEmpty else {
            slots[Int(index)].step = .awaitsDevice
            return stall(index)
        }
        slots[Int(index)].step = .flushBefore
        claimDevice(index)
    }

    /// Claims the device for a barrier; `proceed` goes on when all earlier writes of all queues have ended.
    mutating func claimDevice(_ index: UInt16) {
        guard shared.extents != nil else { return advance(index) }
        claim(.barrier, 0, 0, index | Owner.table)
    }

    private mutating func claim(_ kind: ExtentKind, _ first: UInt64, _ end: UInt64, _ owner: UInt16) {
        claims[claimCount] = ExtentClaim(kind, start: first, end: end, tag: UInt32(owner))
        claimCount &+= 1
    }

    /// Enters the claims of this turn, in one call, and goes on with those that are granted.
    mutating func settleClaims() {
        guard claimCount > 0, let extents = shared.extents else { return }
        let entered = claimCount
        unsafe extents.enter(claims.pointer, count: entered, owner: extentOwner)  // the table holds `entered` claims
        claimCount = 0
        for position in 0..<entered {
            let claim = claims[position]
            switch claim.outcome {
            case .granted: granted(claim)
            case .waits:
                setTicket(claim)
                waitingClaims &+= 1
            case .full: keep(claim)
            }
        }
    }

    /// Presents a claim again in the next turn.
    private mutating func keep(_ claim: ExtentClaim) {
        claims[claimCount] = claim
        claimCount &+= 1
    }

    private mutating func granted(_ claim: ExtentClaim) {
        setTicket(claim)
        goOn(UInt16(truncatingIfNeeded: claim.tag))
    }

    private func setTicket(_ claim: ExtentClaim) {
        let owner = UInt16(truncatingIfNeeded: claim.tag)
        if owner & Owner.part != 0 {
            parts[Int(Owner.index(owner))].ticket = claim.ticket
        } else {
            slots[Int(Owner.index(owner))].ticket = claim.ticket
        }
    }

    private mutating func goOn(_ owner: UInt16) {
        if owner & Owner.part != 0 { proceed(Owner.index(owner)) } else { advance(Owner.index(owner)) }
    }

    /// Notes that a claim is over; `leaveClaims` tells the table, once a turn.
    mutating func release(_ ticket: UInt16) {
        guard ticket != Self.noTicket else { return }
        leaving[leavingCount] = ticket
        leavingCount &+= 1
    }

    /// Ends the claims that are over and goes on with those whose time has come. True if any went on.
    @inline(never) mutating func leaveClaims() -> Bool {
        guard let extents = shared.extents else { return false }
        if leavingCount > 0 {
            _ = unsafe extents.leave(leaving.pointer, count: leavingCount, owner: extentOwner)  // that many tickets
            leavingCount = 0
        }
        return waitingClaims > 0 && takeGrants(extents)
    }

    private mutating func takeGrants(_ extents: DeviceExtents) -> Bool {
        var any = false
        while true {
            // `grantedTags` has `grantedTags.count` elements.
            let count = unsafe extents.takeGranted(
                grantedTags.pointer, capacity: grantedTags.count, owner: extentOwner)
            guard count > 0 else { return any }
            any = true
            waitingClaims &-= count
            for position in 0..<count { goOn(UInt16(truncatingIfNeeded: grantedTags[position])) }
        }
    }

    /// Gives up all claims of a queue that ends.
    mutating func abandonClaims() {
        guard let extents = shared.extents else { return }
        for part in 0..<parts.count where parts[part].ticket != Self.noTicket { abandon(&parts[part].ticket, extents) }
        for slot in 0..<slots.count where slots[slot].ticket != Self.noTicket { abandon(&slots[slot].ticket, extents) }
        if leavingCount > 0 { _ = unsafe extents.leave(leaving.pointer, count: leavingCount, owner: extentOwner) }
        leavingCount = 0
        extents.detach(extentOwner)
    }

    private func abandon(_ ticket: inout UInt16, _ extents: DeviceExtents) {
        _ = unsafe extents.leave(&ticket, count: 1, owner: extentOwner)
        ticket = Self.noTicket
    }
}
