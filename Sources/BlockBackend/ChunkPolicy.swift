/// How many requests to take before publishing what is done.
///
/// A backend that drains the ring before it publishes makes guest and backend sleep in turn when they run on two cores;
/// one that publishes in small chunks wastes switches when they share a core. Which of the two it is shows: the
/// producer index moves while the backend computes, or it does not.
struct ChunkPolicy {
    static let smallest: UInt32 = 8
    /// Bursts without a sign of a running guest before the chunk grows.
    private static let patience = 4
    /// One burst in so many is taken in small chunks, to look for a running guest again.
    private static let probePeriod: UInt32 = 64

    private let largest: UInt32
    private var grown: UInt32
    private var quietBursts = 0
    private var bursts: UInt32 = 0
    private var taken: UInt32 = 0
    private var sightings = 0

    init(ringSize: UInt32) {
        largest = max(ringSize, Self.smallest)
        grown = Self.smallest
    }

    /// Requests to take in this turn at most.
    var size: UInt32 { bursts % Self.probePeriod == 0 ? Self.smallest : grown }

    /// The producer index moved although the backend made no call that could have let the guest run.
    mutating func sawGuestRun() {
        sightings += 1
        quietBursts = 0
        if sightings >= 2 { grown = Self.smallest }
    }

    /// So many requests were taken in a turn.
    mutating func took(_ count: UInt32) { taken &+= count }

    /// The ring is empty and the queue is about to wait.
    mutating func burstEnded() {
        if taken > Self.smallest, sightings == 0 {
            quietBursts += 1
            if quietBursts >= Self.patience { grown = min(grown &* 2, largest) }
        }
        if sightings > 0 { sightings -= 1 }
        if taken > 0 { bursts &+= 1 }
        taken = 0
    }
}

/// Whether looking for a while is cheaper than sleeping: it is tried seldom and kept up only while it succeeds.
struct SpinPolicy {
    private let trial: UInt64
    private let longest: UInt64
    private var budget: UInt64
    private var skips = 0
    private var patience = 8

    /// Nanoseconds of a first try and of the longest one.
    private init(trial: UInt64, longest: UInt64) {
        self.trial = trial
        self.longest = longest
        budget = trial
    }

    /// For the ring: pays only when another core is about to fill it.
    static var forRing: SpinPolicy { SpinPolicy(trial: 4_000, longest: 50_000) }

    /// For the volume's answer to the only request under way: pays where a disk is faster than an idle processor's way to
    /// sleep and back is short. As long as KVM waits before it lets a processor sleep (halt_poll_ns, 200 us by default).
    static var forVolume: SpinPolicy { SpinPolicy(trial: 200_000, longest: 200_000) }

    /// Nanoseconds to spin now; 0 is not at all.
    mutating func nextBudget() -> UInt64 {
        guard budget == 0 else { return budget }
        skips += 1
        guard skips >= patience else { return 0 }
        skips = 0
        budget = trial
        return budget
    }

    /// Tells how spinning went.
    mutating func spun(foundWork: Bool) {
        if foundWork {
            budget = min(max(budget * 2, trial * 2), longest)
            patience = 8
        } else {
            budget /= 2
            if budget < trial / 2 {
                budget = 0
                patience = min(patience * 2, 1024)
            }
        }
    }
}
