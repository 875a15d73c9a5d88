import BlockBackend
import CStepKill
import CXen
import Descriptors
import Glibc
import Loopback
import SharedRing
import Telemetry
import Uring
import XenWire

/// What a backend process does: serves the queue until there is nothing to do, stops, and goes on when it is let.
struct Life {
    private let region: Region
    private let recovers: Bool
    private let journal: Journal
    private let shared: DeviceShared
    private let channel: RegionChannel
    private let engine: RegionEngine
    private let grants: RegionGrants

    static let guest = DomainID(7)
    /// Ring indices and sequences wrap soon after.
    static let firstIndex: UInt32 = 0xffff_fff4
    /// Copies of the disk, as far as the queue knows, behind each other. Only a mutant uses more than the first.
    static let aliases = 64

    /// - Parameter recovers: an earlier process has served the ring.
    init(_ region: Region, recovers: Bool) throws {
        self.region = region
        self.recovers = recovers
        journal = try Journal(reading: region.file)
        shared = try DeviceShared(capacity: UInt64(Region.sectors * Self.aliases), recovers: recovers)
        channel = RegionChannel(region)
        engine = RegionEngine(region)
        grants = RegionGrants(region)
    }

    /// Stops where its instructions begin to be counted: a first process behind `Queue.init`, a later one before it. Then
    /// it stops whenever it is idle.
    func run() -> Never {
        if recovers { step_stop() }
        let queue = queue()
        channel.swallowsEvents = false
        region.hasRecovered = true
        if !recovers || region.stop == .recovered { step_stop() }
        engine.random = SeededRandom(seed: region.order)
        while true {
            serve(queue)
            step_stop()
        }
    }

    /// Does all of it once, in the process from which the others are made: what a runtime does the first time only is not
    /// what is to be killed.
    func warmUp() {
        let queue = queue()
        serve(queue)
    }

    private func queue() -> Queue {
        channel.swallowsEvents = region.mutant == .silentRecovery
        engine.writesBack = region.mutant == .writeBack
        do throws(Fault) {
            return try Queue(
                configuration, grants: grants, channel: channel, engine: engine, clock: RegionClock(),
                shared: shared, control: -1)
        } catch {
            end("the queue is refused: \(error)")
        }
    }

    private func serve(_ queue: Queue) {
        for _ in 0..<10_000 {
            while queue.turn() {}
            guard queue.condition == .running else { end("the queue is \(queue.condition)") }
            if queue.isDrained, queue.arm() { return }
        }
        end("the queue never comes to rest")
    }

    private func end(_ text: String) -> Never {
        region.text = text
        step_exit(1)
    }

    private var configuration: QueueConfiguration {
        QueueConfiguration(
            name: "step-kill", domain: Self.guest, abi: .native, ringReferences: [Region.ringReference],
            eventPort: EventPort(1), limits: RequestLimits(indirectSegments: 8, offersBarrier: true),
            bufferCeiling: 256 << 10, firstIndex: Self.firstIndex, journal: journal, recovers: recovers)
    }
}

/// Grants of the region's pages: no copy ever fails.
private final class RegionGrants: GrantTable {
    private let region: Region

    init(_ region: Region) { self.region = region }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        guard references == [Region.ringReference] else { throw Fault("map what is no ring", errno: EINVAL) }
        if region.stop == .mapping { step_stop() }
        return unsafe GrantMapping(base: region.ring, pages: 1, table: self)
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {}

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        var failed = 0
        for index in 0..<count {
            // The caller answers for `count` segments and for their local sides.
            let isDone = unsafe copy(segments[index], direction)
            unsafe segments[index].status = Int16(isDone ? XEN_GNTST_okay : XEN_GNTST_general_error)
            if !isDone { failed += 1 }
        }
        return failed
    }

    private func copy(_ segment: xen_grant_copy_segment, _ direction: CopyDirection) -> Bool {
        let isInbound = direction == .fromGuest
        let (foreign, local) = isInbound ? (segment.source, segment.dest) : (segment.dest, segment.source)
        let offset = Int(foreign >> 32 & 0xffff)
        guard let page = unsafe region.page(UInt32(truncatingIfNeeded: foreign)),
            let memory = unsafe UnsafeMutableRawPointer(bitPattern: UInt(local)), offset + Int(segment.length) <= 4096
        else { return false }
        unsafe memcpy(isInbound ? memory : page + offset, isInbound ? page + offset : memory, Int(segment.length))
        return true
    }
}

private final class RegionChannel: EventChannel {
    private let region: Region
    var swallowsEvents = false

    init(_ region: Region) { self.region = region }

    var descriptor: Int32 { -1 }
    func notify() { if !swallowsEvents { region.isNotified = true } }
    func drain() -> Bool { false }
    func unmask() {}
}

/// Time that passes with every look.
private final class RegionClock: Clock, @unchecked Sendable {
    // Of one thread.
    private var time: UInt64 = 0

    func now() -> UInt64 {
        time += 1000
        return time
    }
}

/// The disk: operations take effect, and end, in any order. Many have taken effect long before they end, for some are slow.
@safe private final class RegionEngine: Engine {
    private let region: Region
    private var waiting: [Waiting] = []
    var random = SeededRandom(seed: 0)
    /// Mutant: a write is kept in the process until the next operation.
    var writesBack = false
    private var dirty: (sector: Int, bytes: [UInt8])?

    private struct Waiting {
        let operation: IOOperation
        let isDone: Bool
        /// It does not end before so many further looks for ends.
        var patience: Int
    }

    let capacity = 64
    var takesEvents: Bool { false }

    init(_ region: Region) {
        self.region = region
        waiting.reserveCapacity(capacity)
    }

    func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        let accepted = min(count, capacity - waiting.count)
        for index in 0..<accepted {
            // The caller answers for `count` operations and their buffers.
            let operation = unsafe operations[index]
            let isDone = random.chance(perThousand: 400)
            if isDone { perform(operation) }
            let patience = random.chance(perThousand: 250) ? 1 + random.below(12) : 0
            waiting.append(Waiting(operation: operation, isDone: isDone, patience: patience))
        }
        return accepted
    }

    func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        for place in waiting.indices where waiting[place].patience > 0 { waiting[place].patience -= 1 }
        let wanted = min(capacity, 1 + random.below(4))
        for index in 0..<wanted {
            guard let ended = takeAny() else { return index }
            if !ended.isDone { perform(ended.operation) }
            // Below the caller's capacity.
            unsafe completions[index] = IOCompletion(
                tag: ended.operation.tag, result: Int32(ended.operation.length))
        }
        return wanted
    }

    private func takeAny() -> Waiting? {
        guard !waiting.isEmpty else { return nil }
        let first = random.below(waiting.count)
        for step in waiting.indices {
            let place = (first + step) % waiting.count
            guard waiting[place].patience == 0 else { continue }
            waiting.swapAt(place, waiting.count - 1)
            return waiting.removeLast()
        }
        return nil
    }

    private func perform(_ operation: IOOperation) {
        flush()
        guard let buffer = unsafe operation.buffer else { return }
        let sector = Int(operation.offset / Sector.size) % Region.sectors
        let length = min(Int(operation.length), (Region.sectors - sector) * Region.sectorBytes)
        // Within the disk, and the caller's buffer.
        switch operation.kind {
        case .read: unsafe memcpy(buffer, region.disk(sector: sector), length)
        case .write where writesBack:
            dirty = unsafe (sector, Array(UnsafeRawBufferPointer(start: buffer, count: length)))
        case .write: unsafe memcpy(region.disk(sector: sector), buffer, length)
        case .synchronize: break
        }
    }

    func flush() {
        guard let (sector, bytes) = dirty else { return }
        // As long as the write that it came from.
        unsafe bytes.withUnsafeBytes { bytes in
            if let source = bytes.baseAddress { unsafe memcpy(region.disk(sector: sector), source, bytes.count) }
        }
        dirty = nil
    }

    func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool { true }
    func unregister(slab: UInt16) {}
    func watch(event: Int32, control: Int32, takingEvents: Bool) {}
    func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons { [] }
}
