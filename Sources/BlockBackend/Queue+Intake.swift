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
        while taken < wanted, stalled.isEmpty, takeOne() { taken &+= 1 }
        inFlight.noteConsumed()
        chunk.took(taken)
        return taken > 0
    }

    /// Takes the next request (F1-F3), judges it and starts it; what breaks a rule is answered.
    @inline(__always) private mutating func takeOne() -> Bool {
        guard let index = inFlight.allocate() else { return false }
        let request = unsafe inFlight.request(index)
        // The slot is inside the mapped ring, the entry has 112 bytes.
        unsafe abi.takeRequest(from: ring.takeSlot(), into: request)
        inFlight.markInFlight(index)
        if unsafe !takePlain(index, request) { takeOther(index) }
        return true
    }

    /// The short way of nearly all requests: a sound read or write with segments of its own, aligned, in one block that
    /// is at hand. False for anything else, and then nothing was done.
    @inline(__always)
    private mutating func takePlain(_ index: UInt16, _ request: UnsafeMutableRawPointer) -> Bool {
        let operation = unsafe request.load(as: UInt8.self)
        let count = unsafe Int(request.load(fromByteOffset: 1, as: UInt8.self))
        guard operation <= lastPlainOperation, count &- 1 < Int(SegmentLimit.direct), count > 0 else { return false }
        // Plain segments lie in the private copy, at offset 24 of the native layout.
        let segments = unsafe UnsafePointer((request + 24).assumingMemoryBound(to: blkif_segment_wire.self))
        let sectors = unsafe SegmentRules.soundSectors(segments, count: count, alignmentMask: limits.alignmentMask)
        let sector = unsafe request.load(fromByteOffset: 16, as: UInt64.self)
        guard sectors > 0, sector <= capacity &- UInt64(sectors), UInt64(sectors) <= capacity else { return false }
        let length = sectors &* 512
        let offset = sector &* Sector.size
        guard (offset | UInt64(length)) & plainMask == 0 else { return false }
        let order = Self.order(bytes: Int(length))
        guard let block = pool.reuse(order: order) else { return false }

        let slot = unsafe slots.element(Int(index))
        unsafe slot.pointee.started = now
        unsafe slot.pointee.sectors = sectors
        unsafe slot.pointee.segmentCount = UInt16(count)
        unsafe slot.pointee.operation = operation == 0 ? .read : .write
        unsafe slot.pointee.order = UInt8(truncatingIfNeeded: order)
        unsafe slot.pointee.block = block
        unsafe slot.pointee.isPlain = true
        if operation == 0 {
            unsafe queueOperation(.read, block, pool.address(block), offset: offset, length: length, tag: index)
        } else {
            if !inbound.hasRoom(for: count) { copyInbound() }
            unsafe inbound.append(
                segments, count: count, local: pool.address(block), of: index, domain, .fromGuest)
        }
        return true
    }

    /// Puts an operation into the table for the next submission.
    @inline(__always)
    mutating func queueOperation(
        _ kind: OperationKind, _ block: UInt16, _ buffer: UnsafeMutableRawPointer, offset: UInt64, length: UInt32,
        tag: UInt16
    ) {
        // A part has at most one operation, so the table, as large as the table of parts, has room.
        unsafe operations.element(operationCount).pointee = unsafe IOOperation(
            kind, buffer: buffer, slab: slabTags.element(Int(BufferPool.slab(of: block))).pointee, offset: offset,
            length: length, tag: UInt32(tag))
        operationCount &+= 1
    }

    /// Gives a plain request, to which something other than success happened, all that the general way needs.
    @inline(never) mutating func makeGeneral(_ index: UInt16) {
        let slot = slots[Int(index)]
        guard slot.isPlain else { return }
        let request = unsafe inFlight.request(index)
        // `takePlain` has judged: the segments lie in the private copy, the sector fits.
        slots[Int(index)] = unsafe Slot(
            segments: UnsafePointer((request + 24).assumingMemoryBound(to: blkif_segment_wire.self)), sector: 0,
            started: slot.started, sectors: slot.sectors, nextSegment: slot.segmentCount,
            segmentCount: slot.segmentCount, parts: 1, operation: slot.operation)
        parts[Int(index)] = unsafe Part(
            buffer: pool.address(slot.block),
            offset: request.load(fromByteOffset: 16, as: UInt64.self) &* Sector.size, length: slot.sectors &* 512,
            slot: index, segmentCount: slot.segmentCount, block: slot.block, order: slot.order,
            stage: slot.operation == .read ? .read : .write)
    }

    /// The general way: judges by name, and starts what the request asks for.
    @inline(never) private mutating func takeOther(_ index: UInt16) {
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
            // Plain segments lie in the private copy, at offset 24 of the native layout.
            unsafe try judge(
                index, UnsafePointer((inFlight.request(index) + 24).assumingMemoryBound(to: blkif_segment_wire.self)))
            advance(index)
        }
    }

    private func open(_ index: UInt16, _ request: BlockRequest) {
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
    private func judge(_ index: UInt16, _ segments: UnsafePointer<blkif_segment_wire>) throws(Violation) {
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
        let request = unsafe inFlight.request(index)
        let status: BlockStatus = violation.consequence == .refusesRequest ? .unsupported : .error
        // A request that was opened may hold a segment table.
        if slots[Int(index)].table != Slot.noBlock { releaseTable(index) }
        unsafe answer(
            index, operation: BlockRequest.echoedOperation(request),
            status: status)
    }

    // MARK: Indirect segments

    /// Orders a private copy of the request's segment table; `arrive` goes on when it is there.
    private mutating func fetchTable(_ index: UInt16) {
        let bytes = Int(slots[Int(index)].segmentCount) &* MemoryLayout<blkif_segment_wire>.stride
        let order = Self.order(bytes: bytes)
        guard tablePages &+ 1 << order <= pool.ceiling / BufferPool.pageSize / 2, let block = block(order: order) else {
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
                of: index | CopyBatch.tableMark)
        }
    }

    private mutating func releaseTable(_ index: UInt16) {
        let slot = slots[Int(index)]
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
        _ = unsafe grants.copy(inbound.segments.pointer, count: inbound.count, .fromGuest)
        count(.grantCopies)
        count(.grantSegments, UInt64(inbound.count))
        var start = 0
        while start < inbound.count {
            let (owner, succeeded, next) = inbound.owner(at: start)
            arrived.append(UInt32(owner) | (succeeded ? 0 : Self.failureMark))
            start = next
        }
        inbound.clear()
    }

    /// Goes on with everything that arrives, until nothing is gathered any more.
    mutating func settleArrivals() {
        copyInbound()
        while let arrival = arrived.first {
            arrived.removeFirst()
            arrive(UInt16(truncatingIfNeeded: arrival), failed: arrival & Self.failureMark != 0)
            if arrived.isEmpty { copyInbound() }
        }
    }

    private mutating func arrive(_ owner: UInt16, failed: Bool) {
        if owner & CopyBatch.tableMark != 0 {
            tableArrived(owner & ~CopyBatch.tableMark, failed: failed)
        } else if failed {
            count(.grantRefused)
            end(owner, .error)
        } else if Int(owner) < slots.count, slots[Int(owner)].isPlain {
            queuePlainWrite(owner)
        } else {
            queueOperation(owner)
        }
    }

    private mutating func queuePlainWrite(_ index: UInt16) {
        let slot = slots[Int(index)]
        let sector = unsafe inFlight.request(index).load(fromByteOffset: 16, as: UInt64.self)
        unsafe queueOperation(
            .write, slot.block, pool.address(slot.block), offset: sector &* Sector.size, length: slot.sectors &* 512,
            tag: index)
    }

    private mutating func tableArrived(_ index: UInt16, failed: Bool) {
        guard !failed else { return refuse(index, .grantRefused) }
        do throws(Violation) {
            let table = unsafe pool.address(slots[Int(index)].table)
            unsafe try judge(index, UnsafePointer(table.assumingMemoryBound(to: blkif_segment_wire.self)))
            advance(index)
        } catch {
            refuse(index, error)
        }
    }

    // MARK: Parts

    /// Starts whatever the request's step asks for; what lacks memory waits in `stalled`.
    mutating func advance(_ index: UInt16) {
        if !start(index) { stall(index) }
    }

    mutating func stall(_ index: UInt16) {
        slots[Int(index)].isStalled = true
        stalled.append(UInt32(index))
    }

    /// Goes on with the requests that wait for memory, oldest first. True if any moved.
    mutating func resumeStalled() -> Bool {
        var moved = false
        while let first = stalled.first {
            let index = UInt16(truncatingIfNeeded: first)
            if slots[Int(index)].step == .awaitsTable {
                stalled.removeFirst()
                slots[Int(index)].isStalled = false
                fetchTable(index)
                if slots[Int(index)].isStalled { break }
            } else {
                guard start(index) else { break }
                stalled.removeFirst()
                slots[Int(index)].isStalled = false
                if slots[Int(index)].parts == 0 { stepEnded(index) }
            }
            moved = true
        }
        return moved
    }

    /// Starts the parts of the request's step; false if memory ran out before the last.
    private mutating func start(_ index: UInt16) -> Bool {
        switch slots[Int(index)].step {
        case .awaitsTable: return false
        case .flushBefore, .flushAfter: return startSynchronize(index)
        case .data where slots[Int(index)].operation == .discard: return startDiscard(index)
        case .data:
            while slots[Int(index)].nextSegment < slots[Int(index)].segmentCount {
                guard startPart(index) else { return false }
            }
            return true
        }
    }

    /// A part for a request: its own one while it has none under way, else one from the list.
    mutating func part(for index: UInt16) -> UInt16? {
        slots[Int(index)].parts == 0 ? index : freeParts.pop()
    }

    /// Ends the use of a part.
    @inline(__always) mutating func giveBack(_ part: UInt16) {
        if Int(part) >= slots.count { freeParts.push(part) }
    }

    private mutating func startSynchronize(_ index: UInt16) -> Bool {
        guard let part = part(for: index) else { return false }
        parts[Int(part)] = unsafe Part(slot: index, stage: .synchronize)
        slots[Int(index)].parts &+= 1
        queueOperation(part)
        return true
    }

    /// Starts the next part of a request's data.
    private mutating func startPart(_ index: UInt16) -> Bool {
        guard let part = part(for: index) else { return false }
        guard let stretch = reserve(index) else {
            giveBack(part)
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
        if writes { startWrite(part) } else { queueOperation(part) }
        return true
    }

    /// A write's data is fetched at once, or after the blocks around it were read.
    mutating func startWrite(_ part: UInt16) {
        if parts[Int(part)].stage == .fill { queueOperation(part) } else { gatherInbound(part) }
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
            table + Int(part.firstSegment), count: Int(part.segmentCount), local: buffer + Int(part.lead), of: index,
            domain, .fromGuest)
    }

    /// Adds a part's segments to the batch that `copyOutbound` delivers.
    mutating func gatherOutbound(_ index: UInt16) {
        let part = parts[Int(index)]
        if !outbound.hasRoom(for: Int(part.segmentCount)) { copyOutbound() }
        guard let table = unsafe slots[Int(part.slot)].segments, let buffer = unsafe part.buffer else { return }
        unsafe outbound.append(
            table + Int(part.firstSegment), count: Int(part.segmentCount), local: buffer + Int(part.lead), of: index,
            domain, .toGuest)
    }

    /// Puts a part's operation, or what is left of it, into the table for the next submission.
    mutating func queueOperation(_ index: UInt16) {
        if Int(index) < slots.count { makeGeneral(index) }
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
            offset: part.offset &+ UInt64(part.done), length: part.length &- part.done, tag: UInt32(index))
        operationCount &+= 1
    }

    // MARK: Memory

    /// A block of buffer memory: free, from a slab that is brought in now, or merged from smaller ones.
    mutating func block(order: Int) -> UInt16? {
        if let block = pool.allocate(order: order) { return block }
        if pool.canGrow {
            let slab = UInt16(truncatingIfNeeded: pool.slabs)
            let memory = unsafe pool.grow()
            if unsafe engine.register(slab: slab, memory) { slabTags[Int(slab)] = slab }
            counters.set(CellLayout.events + QueueEvent.bufferBytes.rawValue, UInt64(pool.resident))
        } else if !pool.merge() {
            return nil
        }
        return pool.allocate(order: order)
    }

    @inline(__always) static func pages(bytes: Int) -> Int { (bytes &+ 4095) &>> 12 }

    /// The smallest block that holds so many bytes, as a power of two of pages.
    @inline(__always) static func order(bytes: Int) -> Int {
        Int.bitWidth &- (pages(bytes: bytes) &- 1).leadingZeroBitCount
    }
}
