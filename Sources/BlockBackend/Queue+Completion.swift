internal import CXen
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import Telemetry
internal import Uring
internal import XenWire

// Ending requests: from completions to responses.
extension QueueCore {
    /// Takes completions and goes on with their parts: those that came with the submission all at once, those that a
    /// device brings in small chunks, so that it gets the guest's next requests while the rest is worked off. True if
    /// there were any.
    mutating func reap() -> Bool {
        let limit = min(completions.count, max(Int(ChunkPolicy.smallest), justSubmitted))
        // `completions` has `completions.count` elements, at least `limit`.
        let reaped = unsafe engine.reap(completions.pointer, capacity: limit)
        underWay &-= reaped
        laziness.looked(reaped: reaped)
        justSubmitted = reaped == limit ? max(0, justSubmitted &- reaped) : 0
        for index in 0..<reaped { unsafe complete(completions.element(index).pointee) }
        copyOutbound()
        return reaped > 0
    }

    @inline(__always) private mutating func complete(_ completion: IOCompletion) {
        let owner = UInt16(truncatingIfNeeded: completion.tag)
        if owner & Owner.part == 0 {
            completePage(owner, completion.result)
        } else {
            completeOther(Owner.index(owner), completion.result)
        }
    }

    @inline(never) mutating func completeOther(_ index: UInt16, _ result: Int32) {
        guard result >= 0 else { return operationFailed(index, -result) }
        if parts[Int(index)].stage == .synchronize { return endOther(index, .okay) }
        parts[Int(index)].done &+= UInt32(result)
        guard parts[Int(index)].done >= parts[Int(index)].length else {
            return continueShort(index, by: result)
        }
        switch parts[Int(index)].stage {
        case .read: gatherOutbound(index)
        case .fill: mergeIntoFilled(index)
        case .write, .discard, .synchronize:
            noteRoom()
            endOther(index, .okay)
        }
    }

    /// The blocks around an unaligned write are in the buffer: the guest's data goes over them.
    private mutating func mergeIntoFilled(_ index: UInt16) {
        parts[Int(index)].stage = .write
        parts[Int(index)].done = 0
        gatherInbound(index)
    }

    /// The kernel did a part of the operation; nothing at all means that the volume ends before the request does.
    private mutating func continueShort(_ index: UInt16, by bytes: Int32) {
        guard bytes > 0 else { return endOther(index, .error) }
        count(.shortOperations)
        queueOperation(index)
    }

    /// Decides what a failed operation means: another try, a held write, a stopped device, or an error for the guest.
    private mutating func operationFailed(_ index: UInt16, _ code: Int32) {
        let isTransient = code == EAGAIN || code == EINTR || code == ENOMEM
        if isTransient, parts[Int(index)].attempts < 100 {
            parts[Int(index)].attempts &+= 1
            count(.retries)
            return queueOperation(index)
        }
        switch parts[Int(index)].stage {
        case .synchronize: flushFailed(index, code)
        case .write where code == ENOSPC && pausesWhenFull: hold(index, code)
        default: endOther(index, code == EOPNOTSUPP && parts[Int(index)].stage == .discard ? .unsupported : .error)
        }
    }

    /// A failed flush must never be answered: Linux' blkfront would report success to its caller and disable flushes
    /// for good, and the kernel has dropped the dirty state, so trying again could claim a false success.
    private mutating func flushFailed(_ index: UInt16, _ code: Int32) {
        _ = index  // The request stays open for good.
        // The device's own record of it is written only when the control thread comes to it.
        journal?.noteFlushFailure(code)
        become(.failed(Fault("make writes durable", errno: code)))
    }

    // MARK: A full volume

    private mutating func hold(_ index: UInt16, _ code: Int32) {
        held.append(UInt32(index))
        count(.heldWrites)
        if condition == .running { become(.paused(Fault("write", errno: code))) }
    }

    /// See `Queue.retryHeldWrites`.
    mutating func retryHeldWrites() {
        guard case .paused = condition else { return }
        while let index = held.first {
            held.removeFirst()
            queueOperation(UInt16(truncatingIfNeeded: index))
        }
        submit()
    }

    /// A write succeeded: if none is held any more, there is room again.
    private mutating func noteRoom() {
        if case .paused = condition, held.isEmpty { become(.running) }
    }

    // MARK: Ends

    /// Copies read data to the guest and ends those parts.
    mutating func copyOutbound() {
        guard outbound.count > 0 else { return }
        // Both sides were checked: local blocks belong to parts in use.
        let failures = unsafe grants.copy(outbound.segments.pointer, count: outbound.count, .toGuest)
        count(.grantCopies)
        count(.grantSegments, UInt64(outbound.count))
        if failures > 0 || outboundParts > 0 { endCopied() }
        outbound.clear()
        outboundParts = 0
    }

    /// Ends the parts that were copied; page requests are answered already, and corrected where the copy failed.
    @inline(never) private mutating func endCopied() {
        var start = 0
        while start < outbound.count {
            let (owner, next) = outbound.owner(at: start)
            let failed = !outbound.succeeded(start..<next)
            if failed { count(.grantRefused) }
            if owner & Owner.part != 0 {
                endOther(Owner.index(owner), failed ? .error : .okay)
            } else if failed {
                correctPage(owner)
            }
            start = next
        }
    }

    /// A copy from the guest failed: that is the end of a page request, or of a part.
    mutating func fail(_ owner: UInt16) {
        if owner & Owner.part == 0 {
            failPage(owner)
        } else {
            endOther(Owner.index(owner), .error)
        }
    }

    @inline(never) mutating func endOther(_ index: UInt16, _ status: BlockStatus) {
        let part = parts[Int(index)]
        if part.block != Slot.noBlock, part.order != Part.ownPage {
            pool.release(part.block, order: Int(part.order))
        }
        freeParts.push(index)
        let slot = Int(part.slot)
        slots[slot].parts &-= 1
        if status != .okay {
            slots[slot].status = status
            slots[slot].nextSegment = slots[slot].segmentCount  // no further parts
        }
        let isIssued = slots[slot].nextSegment == slots[slot].segmentCount || slots[slot].step != .data
        if slots[slot].parts == 0, isIssued, !slots[slot].isStalled { stepEnded(part.slot) }
    }

    /// Goes to the request's next step, or answers it.
    mutating func stepEnded(_ index: UInt16) {
        let slot = slots[Int(index)]
        switch slot.step {
        case .flushBefore where slot.segmentCount > 0:
            slots[Int(index)].step = .data
            advance(index)
        case .data where slot.operation == .barrier && slot.status == .okay:
            slots[Int(index)].step = .flushAfter
            advance(index)
        default:
            respond(index)
        }
    }

    mutating func respond(_ index: UInt16) {
        releaseTable(index)
        let slot = slots[Int(index)]
        let operation = CountedOperation(slot.operation)
        count(operation, latency: now &- slot.started, requests: 1, sectors: UInt64(slot.sectors))
        if slot.status != .okay { counters.add(CellLayout.errors(operation), 1) }
        answer(index, operation: slot.operation.rawValue, status: slot.status)
    }

    /// Writes a response (P1, P2); `publish` shows it to the guest.
    @inline(__always) mutating func answer(_ index: UInt16, operation: UInt8, status: BlockStatus) {
        inFlight.markAnswered(index, response: ring.produced, status: status.rawValue)
        // The slot is inside the mapped ring, and at most as many answers as requests are written.
        unsafe abi.putResponse(
            into: ring.responseSlot(), identifier: BlockRequest.identifier(inFlight.request(index)),
            operation: operation, status: status)
    }

    // MARK: Counting

    /// Page requests of one kind that were taken in one turn and answered in one have the same latency: they are
    /// counted together.
    struct Recent {
        /// As `PageRequest.key`.
        var key: UInt64 = 0
        var requests: UInt64 = 0
        var bytes: UInt64 = 0
    }

    @inline(never) mutating func startRecent(_ key: UInt64) {
        countRecent()
        recent.key = key
    }

    /// Counts what was answered lately; `publish` does so before the guest can see the answers.
    mutating func countRecent() {
        guard recent.requests > 0 else { return }
        count(
            recent.key & 1 == 0 ? .read : .write, latency: now &- recent.key >> 1, requests: recent.requests,
            sectors: recent.bytes / Sector.size)
        recent.requests = 0
        recent.bytes = 0
    }

    private func count(_ operation: CountedOperation, latency: UInt64, requests: UInt64, sectors: UInt64) {
        counters.add(CellLayout.bucket(operation, latency), requests)
        counters.add(CellLayout.sum(operation), latency &* requests)
        counters.add(CellLayout.sectors(operation), sectors)
    }

    // MARK: Violations

    @_noLocks func count(_ violation: Violation) {
        counters.add(CellLayout.violations &+ Int(violation.rawValue), 1)
    }

    /// The guest broke a rule after which nothing on the ring can be trusted: it is stopped for good.
    mutating func violated(_ violation: Violation) {
        guard violation.consequence == .stopsRing, condition == .running else { return }
        count(violation)
        become(.violated(violation))
    }
}
