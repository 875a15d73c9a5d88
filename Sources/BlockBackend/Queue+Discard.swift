internal import Glibc
internal import SharedRing
internal import Uring
internal import XenWire

// Discards: judged here, executed on the device's lane, off the ring's thread.
extension QueueCore {
    /// Judges a discard and starts it. What is not whole units stays as it is; without any, there is nothing to do.
    mutating func judgeDiscard(_ index: UInt16, _ request: BlockRequest) throws(Violation) {
        let count = request.discardSectors
        if count > 0 {
            try SegmentRules.checkExtent(
                sector: request.sector, count: count, capacity: capacity, alignmentMask: limits.alignmentMask)
        }
        slots[Int(index)].sectors = UInt32(clamping: count)
        guard let range = discardRules.inward(sector: request.sector, count: count) else { return respond(index) }
        slots[Int(index)].sector = range.lowerBound
        slots[Int(index)].discardSectors = UInt64(range.count)
        advance(index)
    }

    /// Starts a discard; false if no part is to be had.
    mutating func startDiscard(_ index: UInt16) -> Bool {
        guard let part = takePart() else { return false }
        let slot = slots[Int(index)]
        // Both lie on the device, so no product overflows.
        parts[Int(part)] = unsafe Part(
            offset: slot.sector &* Sector.size, slot: index, discardBytes: slot.discardSectors &* Sector.size,
            stage: .discard)
        slots[Int(index)].parts &+= 1
        proceed(part)
        return true
    }

    /// Starts a part.
    mutating func proceed(_ index: UInt16) {
        switch parts[Int(index)].stage {
        case .discard: discard(index)
        case .write: gatherInbound(index)
        case .fill, .read, .synchronize: queueOperation(index)
        }
    }

    private mutating func discard(_ index: UInt16) {
        let part = parts[Int(index)]
        let job = DiscardJob(
            offset: part.offset, length: part.discardBytes, tag: UInt32(index | Owner.part), reply: mailbox)
        if let lane = shared.discards, lane.submit(job) {
            discardsUnderWay &+= 1
        } else {
            waitingDiscards.append(UInt32(index))
        }
    }

    /// Takes the discards that have ended, and presents again those that the lane had no room for. True if any ended.
    mutating func reapDiscards() -> Bool {
        guard discardsUnderWay > 0 || !waitingDiscards.isEmpty else { return false }
        // `completions` has `completions.count` elements.
        let count = unsafe mailbox.take(into: completions.pointer, capacity: completions.count)
        discardsUnderWay &-= count
        for position in 0..<count { discardEnded(completions[position]) }
        for _ in 0..<waitingDiscards.count {
            guard let index = waitingDiscards.first else { break }
            waitingDiscards.removeFirst()
            discard(UInt16(truncatingIfNeeded: index))
        }
        return count > 0
    }

    private mutating func discardEnded(_ completion: IOCompletion) {
        let index = Owner.index(UInt16(truncatingIfNeeded: completion.tag))
        switch -completion.result {
        case 0: endOther(index, .okay)
        case ECANCELED: break  // The queue is stopping: the request stays open.
        case EOPNOTSUPP: endOther(index, .unsupported)
        default: endOther(index, .error)
        }
    }
}
