internal import SharedRing
internal import XenWire

// Claims on sectors: what changes the volume is alone there from before it starts until its answer is published (D1, D2,
// P5). A request that has to wait keeps the ring from being read on, so that what comes later cannot overtake it.
extension QueueCore {
    /// Claims a page's sectors; false if somebody else changes them.
    @inline(__always) mutating func claimPage(_ index: UInt16, _ sector: UInt64, _ sectors: UInt32) -> Bool {
        claim(index, ClaimedExtent(start: sector, count: UInt64(sectors)))
    }

    /// Claims what a general request changes, unless it has done so, or changes nothing.
    mutating func claimRequest(_ index: UInt16) -> Bool {
        guard unsafe claimed.element(Int(index)).pointee.count == 0 else { return true }
        let slot = slots[Int(index)]
        switch slot.operation {
        // A flush may carry data (blkif.h).
        case .write where slot.sectors > 0, .flush where slot.sectors > 0:
            return claim(index, ClaimedExtent(start: slot.sector, count: UInt64(slot.sectors)))
        case .discard: return claim(index, ClaimedExtent(start: slot.sector, count: slot.discardSectors))
        default: return true
        }
    }

    @inline(__always) private mutating func claim(_ index: UInt16, _ extent: ClaimedExtent) -> Bool {
        guard claims.take(extent, by: claimant) else { return false }
        unsafe claimed.element(Int(index)).pointee = extent
        claimsHeld &+= 1
        inFlight.markIssued(index)
        return true
    }

    /// Lets a barrier have the whole device once everything that was taken before it has claimed its sectors, for which
    /// segment tables have to arrive, and is answered.
    mutating func awaitDevice(_ index: UInt16) {
        settle()
        guard stalled.isEmpty, claim(index, .device) else {
            slots[Int(index)].step = .awaitsDevice
            return stall(index)
        }
        slots[Int(index)].step = .flushBefore
        advance(index)
    }

    /// P5: entries whose answers are visible are free, and so are their sectors.
    @inline(__always) mutating func releaseAnswered() {
        // Without writes, of this process or the last, there is nothing else to look at.
        let mayHold = claimsHeld > 0 || backlog.stage != .over
        while let index = inFlight.releaseAnswered() {
            if mayHold { releaseClaim(index) }
        }
    }

    private mutating func releaseClaim(_ index: UInt16) {
        let extent = unsafe claimed.element(Int(index))
        if inFlight.isIssued(index) { inFlight.markIssued(index, false) }
        guard unsafe extent.pointee.count > 0 else { return }
        unsafe claims.release(extent.pointee)
        unsafe extent.pointee.count = 0
        claimsHeld &-= 1
    }
}
