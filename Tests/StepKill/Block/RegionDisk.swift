import BlockBackend
import Glibc
import Loopback
import Uring
import XenWire

/// The disk: operations take effect, and end, in any order. Many have taken effect long before they end, for some are slow.
@safe final class RegionDisk: Engine {
    private let region: BlockRegion
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

    init(_ region: BlockRegion) {
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
        let sector = Int(operation.offset / Sector.size) % BlockRegion.sectors
        let length = min(Int(operation.length), (BlockRegion.sectors - sector) * BlockRegion.sectorBytes)
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

/// Discards, one after the other. What they leave is not zeroes but tells which discard it was: the history wants every
/// content to be another.
final class RegionLane: DiscardExecutor, @unchecked Sendable {
    // Of one thread.
    private let region: BlockRegion
    private var jobs: [Waiting] = []
    var random = SeededRandom(seed: 0)
    /// Mutant: a discard is answered before it is done.
    var answersEarly = false

    private struct Waiting {
        let job: DiscardJob
        let isDone: Bool
        /// As of the disk's operations: some are slow.
        var patience: Int
    }

    private static let capacity = 4

    init(_ region: BlockRegion) {
        self.region = region
        jobs.reserveCapacity(Self.capacity)
    }

    func submit(_ job: DiscardJob) -> Bool {
        guard jobs.count < Self.capacity else { return false }
        let isDone = !answersEarly && random.chance(perThousand: 400)
        if isDone { perform(job) }
        if answersEarly { answer(job) }
        let patience = random.chance(perThousand: 400) ? 1 + random.below(32) : 0
        jobs.append(Waiting(job: job, isDone: isDone, patience: patience))
        return true
    }

    /// Ends one of them, or lets it wait; true if any is left or was.
    func step() -> Bool {
        guard !jobs.isEmpty else { return false }
        for place in jobs.indices where jobs[place].patience > 0 { jobs[place].patience -= 1 }
        let place = random.below(jobs.count)
        guard jobs[place].patience == 0 else { return true }
        let waiting = jobs.remove(at: place)
        if !waiting.isDone { perform(waiting.job) }
        if !answersEarly { answer(waiting.job) }
        return true
    }

    private func answer(_ job: DiscardJob) { job.reply.deliver(IOCompletion(tag: job.tag, result: 0)) }

    private func perform(_ job: DiscardJob) {
        let first = Int(job.offset / Sector.size) % BlockRegion.sectors
        let sectors = first..<min(first + Int(job.length / Sector.size), BlockRegion.sectors)
        for sector in sectors {
            let word = Content.word(write: region.discard(sectors), sector: sector)
            // On the disk.
            unsafe Content.fill(region.disk(sector: sector), word)
        }
    }
}
