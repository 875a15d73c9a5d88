import BlockBackend
import Loopback
import Uring
import XenWire

/// A discard lane without a thread: a job ends when the scheduler says so. Sendable because the seam demands it; every
/// use is from the scheduler's thread.
final class ModelDiscards: DiscardExecutor, @unchecked Sendable {
    private let volume: ModelVolume
    private let capacity: Int
    private let rules: DiscardRules
    private var jobs: [DiscardJob] = []
    private var refused = RefusedDiscards()
    /// Jobs that were not whole units.
    private(set) var malformed = 0

    init(_ volume: ModelVolume, capacity: Int, rules: DiscardRules) {
        self.volume = volume
        self.capacity = capacity
        self.rules = rules
    }

    func submit(_ job: DiscardJob) -> Bool {
        guard jobs.count < capacity else {
            refused.note(job.reply)
            return false
        }
        if !isWhole(job) { malformed += 1 }
        jobs.append(job)
        return true
    }

    private func isWhole(_ job: DiscardJob) -> Bool {
        guard job.offset % 512 == 0, job.length % 512 == 0, job.length > 0, job.offset / 512 >= rules.alignment else {
            return false
        }
        return (job.offset / 512 - rules.alignment) % rules.granularity == 0
            && job.length / 512 % rules.granularity == 0
    }

    var isBusy: Bool { !jobs.isEmpty }

    func step(_ random: inout SeededRandom) {
        guard isBusy else { return }
        let job = jobs.remove(at: random.below(jobs.count))
        let result = volume.discard(job.offset..<job.offset &+ job.length)
        refused.ring()
        job.reply.deliver(IOCompletion(tag: job.tag, result: result))
    }
}
