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

    @inline(__always) private mutating func complete(_ completion: IOCompletion) {
        let index = UInt16(truncatingIfNeeded: completion.tag)
        if Int(index) < slots.count {
            let slot = unsafe slots.element(Int(index))
            // A plain request that was done whole, as nearly always.
            let length = unsafe Int32(truncatingIfNeeded: slot.pointee.sectors &* 512)
            if unsafe slot.pointee.isPlain, completion.result == length { return unsafe completePlain(index, slot) }
            makeGeneral(index)
        }
        completeOther(index, completion.result)
    }

    @inline(__always) private mutating func completePlain(_ index: UInt16, _ slot: UnsafeMutablePointer<Slot>) {
        guard unsafe slot.pointee.operation == .read else { return unsafe endPlain(index, slot, .okay) }
        let count = unsafe Int(slot.pointee.segmentCount)
        if !outbound.hasRoom(for: count) { copyOutbound() }
        // `takePlain` has judged the segments in the private copy.
        let segments = unsafe (inFlight.request(index) + 24).assumingMemoryBound(to: blkif_segment_wire.self)
        unsafe outbound.append(
            segments, count: count, local: pool.address(slot.pointee.block), of: index, domain, .toGuest)
    }

    @inline(never) private mutating func completeOther(_ index: UInt16, _ result: Int32) {
        guard result >= 0 else { return operationFailed(index, -result) }
        if parts[Int(index)].stage == .synchronize { return end(index, .okay) }
        parts[Int(index)].done &+= UInt32(result)
        guard parts[Int(index)].done >= parts[Int(index)].length else {
            return continueShort(index, by: result)
        }
        switch parts[Int(index)].stage {
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
        guard outbound.count > 0 else { return }
        // Both sides were checked: local blocks belong to parts in use.
        _ = unsafe grants.copy(outbound.segments.pointer, count: outbound.count, .toGuest)
        count(.grantCopies)
        count(.grantSegments, UInt64(outbound.count))
        var start = 0
        while start < outbound.count {
            let (owner, succeeded, next) = outbound.owner(at: start)
            if !succeeded { count(.grantRefused) }
            end(owner, succeeded ? .okay : .error)
            start = next
        }
        outbound.clear()
    }

    /// A part is over; with the last one the request's step is.
    @inline(__always) mutating func end(_ index: UInt16, _ status: BlockStatus) {
        if Int(index) < slots.count {
            let slot = unsafe slots.element(Int(index))
            if unsafe slot.pointee.isPlain { return unsafe endPlain(index, slot, status) }
        }
        endOther(index, status)
    }

    @inline(__always)
    private mutating func endPlain(_ index: UInt16, _ slot: UnsafeMutablePointer<Slot>, _ status: BlockStatus) {
        unsafe pool.release(slot.pointee.block, order: Int(slot.pointee.order))
        unsafe respond(index, slot, status)
    }

    @inline(never) private mutating func endOther(_ index: UInt16, _ status: BlockStatus) {
        let part = parts[Int(index)]
        if part.block != Slot.noBlock { pool.release(part.block, order: Int(part.order)) }
        giveBack(index)
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

    private mutating func respond(_ index: UInt16) {
        let slot = slots[Int(index)]
        if slot.table != Slot.noBlock {
            pool.release(slot.table, order: Int(slot.tableOrder))
            tablePages &-= 1 << Int(slot.tableOrder)
        }
        unsafe respond(index, slots.element(Int(index)), slot.status)
    }

    @inline(__always)
    private mutating func respond(_ index: UInt16, _ slot: UnsafeMutablePointer<Slot>, _ status: BlockStatus) {
        unsafe record(slot, status)
        unsafe answer(index, operation: slot.pointee.operation.rawValue, status: status)
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

    /// Requests of one kind that were taken and answered in the same turns have the same latency: they are counted
    /// together.
    struct Recent {
        var started: UInt64 = 0
        var operation = BlockOperation.read
        var requests: UInt64 = 0
        var sectors: UInt64 = 0
    }

    @inline(__always) private mutating func record(_ slot: UnsafeMutablePointer<Slot>, _ status: BlockStatus) {
        if unsafe slot.pointee.started != recent.started || slot.pointee.operation != recent.operation {
            recordRecent()
            recent.started = unsafe slot.pointee.started
            recent.operation = unsafe slot.pointee.operation
        }
        recent.requests &+= 1
        recent.sectors &+= unsafe UInt64(slot.pointee.sectors)
        if status != .okay {
            unsafe counters.add(CellLayout.errors(CountedOperation(slot.pointee.operation)), 1)
        }
    }

    /// Counts what was answered lately; `publish` does so before the guest can see the answers.
    @inline(never) mutating func recordRecent() {
        guard recent.requests > 0 else { return }
        let operation = CountedOperation(recent.operation)
        let latency = now &- recent.started
        counters.add(CellLayout.bucket(operation, latency), recent.requests)
        counters.add(CellLayout.sum(operation), latency &* recent.requests)
        counters.add(CellLayout.sectors(operation), recent.sectors)
        recent.requests = 0
        recent.sectors = 0
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
