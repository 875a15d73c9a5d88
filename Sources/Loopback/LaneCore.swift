internal import CLinux
internal import CXen
internal import SharedRing
internal import Synchronization
internal import XenWire

/// Says to all lanes that they shall end.
final class LaneControl: Sendable {
    private let flag = Atomic<Int>(0)

    /// No new I/O; what is in flight is awaited.
    func stop() { _ = flag.max(1, ordering: .relaxed) }
    /// At once: nobody will answer.
    func abandon() { flag.store(2, ordering: .relaxed) }

    var isStopping: Bool { flag.load(ordering: .relaxed) > 0 }
    var isAbandoned: Bool { flag.load(ordering: .relaxed) > 1 }
}

/// An I/O in flight: one or several requests.
struct LaneIO: BitwiseCopyable {
    var submitted: UInt64 = 0
    var block: UInt32 = 0
    /// Requests that are not answered.
    var remaining: UInt16 = 0
    var isWrite = false
    var hasFailed = false
}

/// The load on one queue. Everything that runs per I/O is mutating, also where it changes nothing: for a borrowing call on
/// a noncopyable struct in the middle of a mutating one, Swift 6.3 copies the whole struct. One thread runs it to its end; it owns everything that it touches, apart from the queue.
struct LaneCore: ~Copyable {
    /// What a run is for.
    enum Phase {
        /// The job itself.
        case load
        /// Every block that was written is read and compared.
        case readBack
    }

    private let plan: JobPlan
    private let lane: Int
    private let blocks: UInt32
    private let pattern: SectorPattern?
    private let mustBePresent: Bool
    private let ios: FixedTable<LaneIO>
    /// Which I/O a slot works for.
    private let owners: FixedTable<UInt16>
    /// The last write to each block, 0 before the first; with `busy` while the block has I/O in flight.
    private let generations: FixedTable<UInt32>
    private var free: FreeList
    private var order: RandomOrder
    private var random: SeededRandom
    private var next: UInt64 = 0
    private var position: UInt32 = 0
    private var limit: UInt64
    private var phase = Phase.load
    private var generation: UInt32 = 0
    private(set) var reads = DirectionCounters()
    private(set) var writes = DirectionCounters()
    private(set) var verifiedSectors: UInt64 = 0
    private(set) var wakeups: UInt64 = 0
    private(set) var fault: SectorFault?
    let progress: LaneProgress

    private static var busy: UInt32 { 1 << 31 }

    init(_ plan: JobPlan, lane: Int, slots: Int, _ progress: LaneProgress) {
        let depth = UInt16(clamping: min(plan.depth(lane), max(slots / plan.pieces, 1)))
        self.plan = plan
        self.lane = lane
        self.progress = progress
        blocks = plan.blocks(lane)
        pattern = plan.options.verify.map { SectorPattern(checksum: $0, seed: 0x10_0bac) }
        // A job that only reads expects what an earlier one has written.
        mustBePresent = !plan.options.pattern.writes
        ios = FixedTable(repeating: LaneIO(), count: Int(depth))
        owners = FixedTable(repeating: 0, count: slots)
        generations = FixedTable(repeating: 0, count: plan.isVerifying ? Int(blocks) : 0)
        free = FreeList(count: depth)
        order = RandomOrder(below: blocks, seed: 1)
        random = SeededRandom(seed: UInt64(lane) &+ 1)
        limit = plan.numberOfIOs(lane)
    }

    /// The two directions' results.
    var reports: (read: DirectionReport, write: DirectionReport) {
        let bytes = UInt64(plan.options.blockBytes)
        return (reads.report(bytes: bytes), writes.report(bytes: bytes))
    }

    // ---- The loop

    /// Works until the phase is done, or the control says stop.
    mutating func run(
        _ phase: Phase, on queue: inout FrontQueue, _ control: LaneControl, polling: Bool
    ) throws(BackendMisbehaviour) {
        begin(phase)
        let deadline = plan.options.runtimeNanoseconds.map { linux_monotonic_nanoseconds() &+ $0 } ?? .max
        var now = linux_monotonic_nanoseconds()
        while !control.isAbandoned {
            let done = try queue.reap()
            if done > 0 {
                now = linux_monotonic_nanoseconds()
                try account(&queue, done, now)
            }
            if phase == .load, now >= deadline || control.isStopping { limit = next }
            let put = fill(&queue, now)
            queue.publish()
            if queue.inFlight == 0, put == 0 { break }
            if done == 0, put == 0 { rest(&queue, polling: polling) }
        }
    }

    private mutating func begin(_ phase: Phase) {
        self.phase = phase
        guard phase == .readBack else { return }
        next = 0
        limit = UInt64(blocks)
    }

    /// Waits for the backend, which owes at least one answer. Whoever abandons the run wakes the port.
    private mutating func rest(_ queue: inout FrontQueue, polling: Bool) {
        if polling {
            xen_spin_hint()
        } else if queue.arm() {
            queue.port.wait()
            wakeups &+= 1
        }
    }

    // ---- Submission

    /// Submits as many I/Os as may be in flight, and returns how many.
    private mutating func fill(_ queue: inout FrontQueue, _ now: UInt64) -> Int {
        var put = 0
        while next < limit, free.count > 0, queue.freeSlots >= plan.pieces {
            guard let block = nextBlock() else { break }
            let isWrite = phase == .load && choosesWrite()
            submit(&queue, block, isWrite: isWrite, now)
            next &+= 1
            put &+= 1
        }
        return put
    }

    /// The block at the next place, or nil if it has to wait. In the second phase, blocks that were never written are
    /// passed over.
    @inline(__always)
    private mutating func nextBlock() -> UInt32? {
        guard phase == .load else { return nextWrittenBlock() }
        let block = plan.options.pattern.isRandom ? order.number(at: position) : position
        if plan.isVerifying {
            guard generations[Int(block)] & Self.busy == 0 else { return nil }
            generations[Int(block)] |= Self.busy
        }
        position &+= 1
        if position == blocks { startOver() }
        return block
    }

    private mutating func startOver() {
        position = 0
        order = RandomOrder(below: blocks, seed: UInt32(truncatingIfNeeded: random.next()))
    }

    private mutating func nextWrittenBlock() -> UInt32? {
        while next < limit {
            let block = Int(truncatingIfNeeded: next)
            if generations[block] != 0 {
                generations[block] |= Self.busy
                return UInt32(truncatingIfNeeded: block)
            }
            next &+= 1
        }
        return nil
    }

    private mutating func choosesWrite() -> Bool {
        guard plan.options.pattern.isMixed else { return plan.options.pattern.writes }
        return random.below(100) >= plan.options.readPercent
    }

    @inline(__always)
    private mutating func submit(_ queue: inout FrontQueue, _ block: UInt32, isWrite: Bool, _ now: UInt64) {
        guard let io = free.pop() else { return }
        // An index from the table's own free list.
        unsafe ios.element(Int(io)).pointee = LaneIO(
            submitted: now, block: block, remaining: UInt16(truncatingIfNeeded: plan.pieces), isWrite: isWrite)
        if isWrite { noteWrite(block) }
        let sector = plan.sector(block, lane)
        if plan.pieces == 1 {
            submitRequest(&queue, io, isWrite, sector, plan.sectors, now)
        } else {
            submitPieces(&queue, io, isWrite, sector, now)
        }
    }

    @inline(never)
    private mutating func submitPieces(
        _ queue: inout FrontQueue, _ io: UInt16, _ isWrite: Bool, _ start: UInt64, _ now: UInt64
    ) {
        var sector = start
        var left = plan.sectors
        while left > 0 {
            let length = min(left, plan.requestSectors)
            submitRequest(&queue, io, isWrite, sector, length, now)
            sector &+= UInt64(length)
            left &-= length
        }
    }

    /// One request; `fill` has seen that there are slots for all requests of an I/O.
    @inline(__always)
    private mutating func submitRequest(
        _ queue: inout FrontQueue, _ io: UInt16, _ isWrite: Bool, _ sector: UInt64, _ sectors: UInt32, _ now: UInt64
    ) {
        guard let slot = queue.takeSlot() else { return }
        if isWrite, pattern != nil { unsafe fillBuffer(queue.buffer(slot), sector, sectors) }
        // The queue's slots are what the table was made for.
        unsafe owners.element(Int(slot)).pointee = io
        queue.submit(slot, isWrite ? .write : .read, sector: sector, sectors: sectors, at: now)
    }

    @inline(never)
    private mutating func fillBuffer(_ buffer: UnsafeMutableRawPointer, _ sector: UInt64, _ count: UInt32) {
        // The slot's buffer holds as many sectors as are written.
        unsafe pattern?.fill(buffer, sector: sector, count: count, generation: generation)
    }

    @inline(__always)
    private mutating func noteWrite(_ block: UInt32) {
        guard plan.isVerifying else { return }
        generation = generation == Self.busy &- 1 ? 1 : generation &+ 1
        generations[Int(block)] = generation | Self.busy
    }

    // ---- Completion

    private mutating func account(
        _ queue: inout FrontQueue, _ count: Int, _ now: UInt64
    ) throws(BackendMisbehaviour) {
        var finished: UInt64 = 0
        var index = 0
        while index < count {
            let completion = queue.completion(index)
            // Filled when the slot was submitted.
            let number = unsafe owners.element(Int(completion.slot)).pointee
            let io = unsafe ios.element(Int(number))
            if completion.status != .okay {
                unsafe io.pointee.hasFailed = true
            } else if let pattern, completion.operation == .read {
                unsafe try verify(pattern, queue.buffer(completion.slot), completion, io.pointee.block)
            }
            unsafe io.pointee.remaining &-= 1
            if unsafe io.pointee.remaining == 0 {
                unsafe finish(io.pointee, now)
                free.push(number)
                finished &+= 1
            }
            index &+= 1
        }
        progress.add(finished)
    }

    @inline(__always)
    private mutating func finish(_ io: LaneIO, _ now: UInt64) {
        if plan.isVerifying { generations[Int(io.block)] &= ~Self.busy }
        if io.hasFailed {
            if io.isWrite { writes.recordError() } else { reads.recordError() }
        } else if phase == .load {
            if io.isWrite { writes.record(now &- io.submitted) } else { reads.record(now &- io.submitted) }
        }
    }

    private mutating func verify(
        _ pattern: SectorPattern, _ buffer: UnsafeMutableRawPointer, _ completion: FrontCompletion, _ block: UInt32
    ) throws(BackendMisbehaviour) {
        let written = generations[Int(block)] & ~Self.busy
        guard written != 0 || mustBePresent else { return }
        do throws(SectorFault) {
            // The slot's buffer holds as many sectors as were read.
            unsafe try pattern.check(
                buffer, sector: completion.sector, count: completion.sectors,
                generation: written == 0 ? nil : written)
        } catch {
            throw .wrongSector(error)
        }
        verifiedSectors &+= UInt64(completion.sectors)
    }
}

/// How far a lane has come, for whoever watches.
final class LaneProgress: Sendable {
    private let finished = Atomic<UInt64>(0)
    /// Called by the lane only, once a batch.
    func add(_ count: UInt64) { finished.store(finished.load(ordering: .relaxed) &+ count, ordering: .relaxed) }
    var count: UInt64 { finished.load(ordering: .relaxed) }
}
