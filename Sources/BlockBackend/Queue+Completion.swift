internal import CXen
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import Telemetry
internal import Uring
internal import XenWire

// Ending requests: from completions to responses.
extension QueueCore {
    /// Takes all completions there are and goes on with their parts. True if there were any.
    mutating func reap() -> Bool {
        // `completions` has `completions.count` elements.
        let reaped = unsafe engine.reap(completions.pointer, capacity: completions.count)
        underWay &-= reaped
        for index in 0..<reaped { complete(completions[index]) }
        copyOutbound()
        return reaped > 0
    }

    private mutating func complete(_ completion: IOCompletion) {
        let index = UInt16(truncatingIfNeeded: completion.tag)
        guard completion.result >= 0 else { return operationFailed(index, -completion.result) }
        let stage = parts[Int(index)].stage
        if stage == .synchronize { return end(index, .okay) }
        parts[Int(index)].done &+= UInt32(completion.result)
        guard parts[Int(index)].done >= parts[Int(index)].length else {
            return continueShort(index, by: completion.result)
        }
        switch stage {
        case .read: gatherOutbound(index)
        case .fill: mergeIntoFilled(index)
        case .write, .discard, .synchronize: end(index, .okay)
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
        guard bytes > 0 else { return end(index, .error) }
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
        default: end(index, code == EOPNOTSUPP && parts[Int(index)].stage == .discard ? .unsupported : .error)
        }
    }

    /// A failed flush must never be answered: Linux' blkfront would report success to its caller and disable flushes
    /// for good, and the kernel has dropped the dirty state, so trying again could claim a false success.
    private mutating func flushFailed(_ index: UInt16, _ code: Int32) {
        _ = index  // The request stays open for good.
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
        become(.running)
        submit()
    }

    // MARK: Ends

    /// Copies read data to the guest and ends those parts.
    mutating func copyOutbound() {
        guard outbound.itemCount > 0 else { return }
        // Both sides were checked: local blocks belong to parts in use.
        let failures = unsafe grants.copy(outbound.segments.pointer, count: outbound.count, .toGuest)
        count(.grantCopies)
        count(.grantSegments, UInt64(outbound.count))
        for item in 0..<outbound.itemCount {
            let index = UInt16(truncatingIfNeeded: outbound.item(item))
            if failures > 0, !outbound.succeeded(item) {
                count(.grantRefused)
                end(index, .error)
            } else {
                end(index, .okay)
            }
        }
        outbound.clear()
    }

    /// A part is over; with the last one the request's step is.
    mutating func end(_ index: UInt16, _ status: BlockStatus) {
        let part = parts[Int(index)]
        if part.block != Slot.noBlock { pool.release(part.block, order: Int(part.order)) }
        freeParts.push(index)
        let slot = Int(part.slot)
        slots[slot].parts &-= 1
        if status != .okay {
            slots[slot].status = status
            slots[slot].nextSegment = slots[slot].segmentCount  // no further parts
        }
        if slots[slot].parts == 0, slots[slot].nextSegment == slots[slot].segmentCount || slots[slot].step != .data,
            !slots[slot].isStalled
        {
            stepEnded(part.slot)
        }
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

    private mutating func respond(_ index: UInt16) {
        let slot = slots[Int(index)]
        if slot.table != Slot.noBlock {
            pool.release(slot.table, order: Int(slot.tableOrder))
            tablePages &-= 1 << Int(slot.tableOrder)
        }
        record(slot)
        answer(index, identifier: slot.identifier, operation: slot.operation.rawValue, status: slot.status)
    }

    @_noLocks private func record(_ slot: Slot) {
        let operation = CountedOperation(slot.operation)
        let latency = now &- slot.started
        counters.add(CellLayout.bucket(operation, latency), 1)
        counters.add(CellLayout.sum(operation), latency)
        counters.add(CellLayout.sectors(operation), UInt64(slot.sectors))
        if slot.status != .okay { counters.add(CellLayout.errors(operation), 1) }
    }

    /// Writes a response (P1, P2); `publish` shows it to the guest.
    @_noLocks
    mutating func answer(_ index: UInt16, identifier: UInt64, operation: UInt8, status: BlockStatus) {
        inFlight.markAnswered(index, response: ring.produced, status: status.rawValue)
        // The slot is inside the mapped ring, and at most as many answers as requests are written.
        unsafe abi.putResponse(into: ring.responseSlot(), identifier: identifier, operation: operation, status: status)
        answered.push(index)
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
