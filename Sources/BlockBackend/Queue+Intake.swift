internal import CXen
internal import SharedRing
internal import Telemetry
internal import Uring
internal import XenWire

// Taking requests: from ring slots to operations that are ready to be submitted.
extension QueueCore {
    /// Takes at most a chunk of requests. True if there were any.
    mutating func takeChunk() -> Bool {
        guard mayTake else { return false }
        guard let waiting = ring.waiting() else {
            violated(.requestOverrun)
            return false
        }
        let wanted = min(waiting, chunk.size)
        var taken: UInt32 = 0
        while taken < wanted {
            taken &+= 1
            if !takeOne() { break }
        }
        inFlight.noteConsumed()
        chunk.took(taken)
        return taken > 0
    }

    /// The general way: judges by name, and starts what the request asks for.
    @inline(never) mutating func takeOther(_ index: UInt16) {
        slots[Int(index)].table = Slot.noBlock  // what an earlier request left behind is not this one's
        do throws(Violation) {
            let request = unsafe try BlockRequest.decode(inFlight.request(index), within: limits)
            try begin(index, request)
        } catch {
            refuse(index, error)
        }
    }

    private mutating func begin(_ index: UInt16, _ request: BlockRequest) throws(Violation) {
        open(index, request)
        if request.isIndirect {
            fetchTable(index)
        } else if request.operation == .discard {
            try judgeDiscard(index, request)
        } else {
            unsafe try judge(index, Self.segments(in: inFlight.request(index)))
            if request.operation == .barrier { awaitDevice(index) } else { advance(index) }
        }
    }

    private mutating func open(_ index: UInt16, _ request: BlockRequest) {
        var slot = Slot()
        slot.sector = request.sector
        slot.segmentCount = request.segmentCount
        slot.operation = request.operation
        slot.started = now
        slot.step = request.operation == .flush || request.operation == .barrier ? .flushBefore : .data
        slots[Int(index)] = slot
    }

    /// Judges the segments, which are private memory by now.
    @_noLocks
    private mutating func judge(_ index: UInt16, _ segments: UnsafePointer<blkif_segment_wire>) throws(Violation) {
        let slot = slots[Int(index)]
        let total = unsafe try SegmentRules.totalSectors(
            segments, count: slot.segmentCount, alignmentMask: limits.alignmentMask)
        if total > 0 {
            try SegmentRules.checkExtent(
                sector: slot.sector, count: UInt64(total), capacity: capacity,
                alignmentMask: limits.alignmentMask)
        }
        unsafe slots[Int(index)].segments = segments
        slots[Int(index)].sectors = total
    }

    /// Answers a request that broke a rule and counts the rule.
    mutating func refuse(_ index: UInt16, _ violation: Violation) {
        count(violation)
        refuse(index, violation.consequence == .refusesRequest ? .unsupported : .error)
    }

    private mutating func refuse(_ index: UInt16, _ status: BlockStatus) {
        releaseTable(index)
        unsafe answer(index, operation: BlockRequest.echoedOperation(inFlight.request(index)), status: status)
    }

    // MARK: Indirect segments

    /// Orders a private copy of the request's segment table; `arrive` goes on when it is there.
    private mutating func fetchTable(_ index: UInt16) {
        let bytes = Int(slots[Int(index)].segmentCount) &* MemoryLayout<blkif_segment_wire>.stride
        let order = Self.order(bytes: bytes)
        guard tablePages &+ 1 << order <= pool.blockPages / 2, let block = block(order: order) else {
            slots[Int(index)].step = .awaitsTable
            return stall(index)
        }
        tablePages &+= 1 << order
        slots[Int(index)].table = block
        slots[Int(index)].tableOrder = UInt8(order)
        slots[Int(index)].step = .data
        gatherTable(index, bytes: bytes)
    }

    private mutating func gatherTable(_ index: UInt16, bytes: Int) {
        let pages = Self.pages(bytes: bytes)
        if !inbound.hasRoom(for: pages) { copyInbound() }
        for page in 0..<pages {
            // Native layout: eight references from offset 28; at most eight pages by `decode`.
            let reference = unsafe inFlight.request(index).load(fromByteOffset: 28 + page * 4, as: UInt32.self)
            let length = min(bytes - page * BufferPool.pageSize, BufferPool.pageSize)
            let local = unsafe pool.address(slots[Int(index)].table) + page * BufferPool.pageSize
            unsafe inbound.append(
                .fromGuest(domain, GrantReference(reference), offset: 0, length: UInt16(length), to: local),
                of: index | Owner.table)
        }
    }

    /// Gives the request's segment table back, if it has one.
    mutating func releaseTable(_ index: UInt16) {
        let slot = slots[Int(index)]
        guard slot.table != Slot.noBlock else { return }
        pool.release(slot.table, order: Int(slot.tableOrder))
        tablePages &-= 1 << Int(slot.tableOrder)
        slots[Int(index)].table = Slot.noBlock
    }

    // MARK: Arrivals from the guest

    /// Marks an arrival whose copy failed.
    private static var failureMark: UInt32 { 1 << 16 }

    /// Copies what was gathered from the guest and notes what arrived.
    mutating func copyInbound() {
        guard inbound.count > 0 else { return }
        // Both sides were checked: local blocks belong to parts and tables in use.
        let failures = unsafe grants.copy(inbound.segments.pointer, count: inbound.count, .fromGuest)
        count(.grantCopies)
        count(.grantSegments, UInt64(inbound.count))
        var start = 0
        while start < inbound.count {
            let (owner, next) = inbound.owner(at: start)
            let failed = failures > 0 && !inbound.succeeded(start..<next)
            arrived.append(UInt32(owner) | (failed ? Self.failureMark : 0))
            start = next
        }
        inbound.clear()
    }

    /// Goes on with everything that was claimed or arrives, until nothing is gathered any more.
    mutating func settle() {
        copyInbound()
        while let arrival = arrived.first {
            arrived.removeFirst()
            arrive(UInt16(truncatingIfNeeded: arrival), failed: arrival & Self.failureMark != 0)
            if arrived.isEmpty { copyInbound() }
        }
    }

    private mutating func arrive(_ owner: UInt16, failed: Bool) {
        if failed { count(.grantRefused) }
        if owner & Owner.table != 0 {
            tableArrived(Owner.index(owner), failed: failed)
        } else if failed {
            fail(owner)
        } else if owner & Owner.part != 0 {
            queueOperation(Owner.index(owner))
        } else {
            writePage(owner)
        }
    }

    private mutating func tableArrived(_ index: UInt16, failed: Bool) {
        guard !failed else { return refuse(index, .error) }
        do throws(Violation) {
            let table = unsafe pool.address(slots[Int(index)].table)
            unsafe try judge(index, UnsafePointer(table.assumingMemoryBound(to: blkif_segment_wire.self)))
            advance(index)
        } catch {
            refuse(index, error)
        }
    }

    // MARK: Parts

    /// Starts whatever the request's step asks for; what lacks sectors or memory waits in `stalled`.
    mutating func advance(_ index: UInt16) {
        if !start(index) { stall(index) }
    }

    mutating func stall(_ index: UInt16) {
        slots[Int(index)].isStalled = true
        stalled.append(UInt32(index))
    }

    /// Goes on with the requests that wait for memory or sectors, each once: whoever waits for sectors must not keep those
    /// who have them from their memory. While one waits nothing new is taken, so nobody waits for ever. True if any moved.
    mutating func resumeStalled() -> Bool {
        var moved = false
        for _ in 0..<stalled.count {
            guard let first = stalled.first else { break }
            stalled.removeFirst()
            moved = resume(UInt16(truncatingIfNeeded: first)) || moved
        }
        return moved
    }

    private mutating func resume(_ index: UInt16) -> Bool {
        slots[Int(index)].isStalled = false
        switch slots[Int(index)].step {
        case .awaitsTable: fetchTable(index)
        case .awaitsDevice: awaitDevice(index)
        case .data, .flushBefore, .flushAfter:
            let parts = slots[Int(index)].parts
            guard start(index) else {
                stall(index)
                return slots[Int(index)].parts > parts
            }
            if slots[Int(index)].parts == 0 { stepEnded(index) }
        }
        return !slots[Int(index)].isStalled
    }

    /// Starts the parts of the request's step; false if it has to wait for sectors, or memory ran out before the last.
    private mutating func start(_ index: UInt16) -> Bool {
        // Before memory is taken: who waits for sectors must not hold what those who have them need.
        guard claimRequest(index) else { return false }
        switch slots[Int(index)].step {
        case .awaitsTable, .awaitsDevice: return false
        case .flushBefore, .flushAfter: return startSynchronize(index)
        case .data where slots[Int(index)].operation == .discard: return startDiscard(index)
        case .data:
            while slots[Int(index)].nextSegment < slots[Int(index)].segmentCount {
                guard startPart(index) else { return false }
            }
            return true
        }
    }

    /// A part, as long as there is one more for every entry (see `completeGeneral`).
    mutating func takePart() -> UInt16? {
        freeParts.count > Int(ring.size) ? freeParts.pop() : nil
    }

    private mutating func startSynchronize(_ index: UInt16) -> Bool {
        guard let part = takePart() else { return false }
        parts[Int(part)] = unsafe Part(slot: index, stage: .synchronize)
        slots[Int(index)].parts &+= 1
        queueOperation(part)
        return true
    }

    /// Starts the next part of a request's data.
    private mutating func startPart(_ index: UInt16) -> Bool {
        guard let part = takePart() else { return false }
        guard let stretch = reserve(index) else {
            freeParts.push(part)
            return false
        }
        let slot = slots[Int(index)]
        let first = slot.sector &* Sector.size
        let lead = first & blockMask
        let bytes = UInt64(stretch.sectors) &* Sector.size
        let length = (lead &+ bytes &+ blockMask) & ~blockMask
        let writes = slot.operation != .read
        let isUnaligned = length != bytes
        parts[Int(part)] = unsafe Part(
            buffer: pool.address(stretch.block), offset: first &- lead, length: UInt32(truncatingIfNeeded: length),
            slot: index, firstSegment: slot.nextSegment, segmentCount: stretch.segments, block: stretch.block,
            lead: UInt16(truncatingIfNeeded: lead), order: UInt8(truncatingIfNeeded: stretch.order),
            stage: !writes ? .read : isUnaligned ? .fill : .write)
        slots[Int(index)].nextSegment &+= stretch.segments
        slots[Int(index)].sector &+= UInt64(stretch.sectors)
        slots[Int(index)].parts &+= 1
        proceed(part)
        return true
    }

    /// Segments, their sectors and the block that takes them.
    private struct Stretch {
        var segments: UInt16
        var sectors: UInt32
        var block: UInt16
        var order: Int
    }

    /// As many of the next segments as fit into the largest block that is to be had.
    private mutating func reserve(_ index: UInt16) -> Stretch? {
        var limit = BufferPool.pageSize << BufferPool.maximumOrder
        while limit >= BufferPool.pageSize {
            var stretch = measure(index, limit: limit)
            guard stretch.segments > 0 else { return nil }
            if let block = block(order: stretch.order) {
                stretch.block = block
                return stretch
            }
            limit = (BufferPool.pageSize << stretch.order) / 2
        }
        return nil
    }

    /// As many of the next segments as fit into `limit` bytes, the blocks around an unaligned piece included.
    @_noLocks private func measure(_ index: UInt16, limit: Int) -> Stretch {
        let slot = slots[Int(index)]
        let around = blockMask == 511 ? 0 : Int(truncatingIfNeeded: blockMask &+ 1) &* 2
        if slot.nextSegment == 0, slot.segmentCount <= Self.segmentsPerPart, Int(slot.sectors) &* 512 &+ around <= limit
        {
            return Stretch(
                segments: slot.segmentCount, sectors: slot.sectors, block: 0,
                order: Self.order(bytes: Int(slot.sectors) &* 512 &+ around))
        }
        return walk(slot, limit: limit, around: around)
    }

    @_noLocks private func walk(_ slot: Slot, limit: Int, around: Int) -> Stretch {
        var segments: UInt16 = 0
        var sectors = 0
        while slot.nextSegment &+ segments < slot.segmentCount, segments < Self.segmentsPerPart {
            // Judged before: `segments` has `segmentCount` elements, each of 1 to 8 sectors.
            guard let table = unsafe slot.segments else { break }
            let segment = unsafe table[Int(slot.nextSegment &+ segments)]
            let next = sectors &+ Int(segment.last_sect &- segment.first_sect) &+ 1
            if next &* 512 &+ around > limit { break }
            sectors = next
            segments &+= 1
        }
        return Stretch(
            segments: segments, sectors: UInt32(sectors), block: 0, order: Self.order(bytes: sectors &* 512 &+ around))
    }

    /// Segments of one part at most, so that a part always fits into a copy batch.
    static var segmentsPerPart: UInt16 { @_noLocks get { 256 } }

    /// Adds a part's segments to the batch that `copyInbound` fetches.
    mutating func gatherInbound(_ index: UInt16) {
        let part = parts[Int(index)]
        if !inbound.hasRoom(for: Int(part.segmentCount)) { copyInbound() }
        guard let table = unsafe slots[Int(part.slot)].segments, let buffer = unsafe part.buffer else { return }
        unsafe inbound.append(
            table + Int(part.firstSegment), count: Int(part.segmentCount), local: buffer + Int(part.lead),
            of: index | Owner.part, domain, .fromGuest)
    }

    /// Adds a part's segments to the batch that `copyOutbound` delivers.
    mutating func gatherOutbound(_ index: UInt16) {
        let part = parts[Int(index)]
        if !outbound.hasRoom(for: Int(part.segmentCount)) { copyOutbound() }
        guard let table = unsafe slots[Int(part.slot)].segments, let buffer = unsafe part.buffer else { return }
        outboundParts &+= 1
        unsafe outbound.append(
            table + Int(part.firstSegment), count: Int(part.segmentCount), local: buffer + Int(part.lead),
            of: index | Owner.part, domain, .toGuest)
    }

    /// Puts a part's operation, or what is left of it, into the table for the next submission.
    mutating func queueOperation(_ index: UInt16) {
        let part = parts[Int(index)]
        let kind: OperationKind =
            switch part.stage {
            case .read, .fill: .read
            case .write: .write
            case .synchronize, .discard: .synchronize
            }
        // A part's buffer is its block, and `done` bytes of it are done.
        operations[operationCount] = unsafe IOOperation(
            kind, buffer: part.buffer.map { unsafe $0 + Int(part.done) },
            slab: part.block == Slot.noBlock
                ? IOOperation.unregistered : slabTags[Int(BufferPool.slab(of: part.block))],
            offset: part.offset &+ UInt64(part.done), length: part.length &- part.done, tag: UInt32(index | Owner.part))
        operationCount &+= 1
    }

    // MARK: Memory

    /// A block of buffer memory: free, from a slab that is brought in now, or merged from smaller ones.
    mutating func block(order: Int) -> UInt16? {
        if let block = pool.allocate(order: order) { return block }
        if pool.canGrow {
            repeat { bringInSlab() } while pool.canGrow && !pool.hasReservedPages
            // The entries' own pages are there now: page requests may take the short way.
            if pool.reservesPages { pageOperations = limits.isReadOnly ? 1 : 2 }
        } else if !pool.merge() {
            return nil
        }
        return pool.allocate(order: order)
    }

    private mutating func bringInSlab() {
        let slab = UInt16(truncatingIfNeeded: pool.slabs)
        let memory = unsafe pool.grow()
        if unsafe engine.register(slab: slab, memory) { slabTags[Int(slab)] = slab }
        counters.set(CellLayout.events + QueueEvent.bufferBytes.rawValue, UInt64(pool.resident))
    }

    @inline(__always) static func pages(bytes: Int) -> Int { (bytes &+ 4095) &>> 12 }

    /// The smallest block that holds so many bytes, as a power of two of pages.
    @inline(__always) static func order(bytes: Int) -> Int {
        Int.bitWidth &- (pages(bytes: bytes) &- 1).leadingZeroBitCount
    }
}
