import BlockBackend
import Loopback
import Uring

/// What dead processes have submitted and the kernel is not done with: it takes effect later, in any order, or never.
@safe final class Zombies {
    private let volume: ModelVolume
    private var operations: [IOOperation] = []
    private var discards: [Range<UInt64>] = []

    init(_ volume: ModelVolume) { self.volume = volume }

    deinit { for operation in operations { unsafe operation.buffer?.deallocate() } }

    var isEmpty: Bool { operations.isEmpty && discards.isEmpty }

    /// The kernel keeps the pages of an operation's buffer, whatever becomes of the process.
    func adopt(_ orphans: [IOOperation]) {
        for var operation in orphans {
            if let buffer = unsafe operation.buffer {
                let memory = UnsafeMutableRawPointer.allocate(byteCount: Int(operation.length), alignment: 4096)
                // The dead queue's memory is still there, and a part's buffer has its length.
                unsafe memory.copyMemory(from: buffer, byteCount: Int(operation.length))
                unsafe operation.buffer = unsafe memory
            }
            operations.append(operation)
        }
    }

    func adopt(_ orphans: [Range<UInt64>]) { discards += orphans }

    func step(_ random: inout SeededRandom, _ discard: (Range<UInt64>) -> Void) {
        let choice = random.below(operations.count + discards.count)
        let isCancelled = random.chance(perThousand: 200)
        if choice < operations.count {
            let operation = operations.remove(at: choice)
            if !isCancelled { _ = volume.apply(operation, &random) }
            unsafe operation.buffer?.deallocate()
        } else if choice - operations.count < discards.count {
            let range = discards.remove(at: choice - operations.count)
            if !isCancelled { discard(range) }
        }
    }
}

/// A discard lane without a thread. A discarded range is not zeroed: it then holds what tells which discard it was, since
/// the checker wants every content to be different. Sendable as `KillableClock`.
final class DiscardModel: @unchecked Sendable {
    private let volume: ModelVolume
    private let capacity: Int
    private var jobs: [DiscardJob] = []
    private var refused = RefusedDiscards()
    /// The write that a discard of these sectors counts as.
    private var numbers: [Range<Int>: Int] = [:]
    private(set) var malformed = 0

    init(_ volume: ModelVolume, capacity: Int) {
        self.volume = volume
        self.capacity = capacity
    }

    /// From now on a discard of these sectors is the one of this number.
    func expect(_ number: Int, of sectors: Range<Int>) { numbers[sectors] = number }

    func submit(_ job: DiscardJob) -> Bool {
        guard jobs.count < capacity else {
            refused.note(job.reply)
            return false
        }
        jobs.append(job)
        return true
    }

    var isBusy: Bool { !jobs.isEmpty }

    func step(_ random: inout SeededRandom) {
        guard isBusy else { return }
        let job = jobs.remove(at: random.below(jobs.count))
        discard(job.offset..<job.offset &+ job.length)
        refused.ring()
        job.reply.deliver(IOCompletion(tag: job.tag, result: 0))
    }

    func discard(_ range: Range<UInt64>) {
        let sectors = Int(range.lowerBound / 512)..<Int(range.upperBound / 512)
        guard range.lowerBound % 512 == 0, range.upperBound % 512 == 0, let number = numbers[sectors] else {
            malformed += 1
            return
        }
        _ = unsafe volume.discard(range) { memory in
            guard let base = memory.baseAddress else { return }
            for (place, sector) in sectors.enumerated() {
                unsafe Pages.fill(base + place * 512, RegisterHistory.Content.word(write: number, sector: sector))
            }
        }
    }

    /// The process is dead: nobody wants to hear of its jobs.
    func abandon() -> [Range<UInt64>] {
        defer { (jobs, refused) = ([], RefusedDiscards()) }
        return jobs.map { $0.offset..<$0.offset &+ $0.length }
    }
}
