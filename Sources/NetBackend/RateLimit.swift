internal import Synchronization

/// How much may pass an interface, in both directions and through all queues together, and how much of it at once.
public struct TransferRate: Equatable, Sendable {
    let nanosecondsPerByte: Double
    /// Nanoseconds by which bytes may be ahead of that.
    let depth: UInt64

    /// What any interface may pass at once, as xen-netback has it (tx_add_credit): two of the longest packets.
    private static let smallestBurst: UInt64 = 131_072
    public static let bytesRange: ClosedRange<UInt64> = 1...(1 << 40)
    public static let microsecondsRange: ClosedRange<UInt64> = 1...UInt64(UInt32.max)

    /// `bytes` in each `microseconds`, which is how libxl writes it; nil if one of them is out of range.
    public init?(bytes: UInt64, microseconds: UInt64) {
        guard Self.bytesRange.contains(bytes), Self.microsecondsRange.contains(microseconds) else { return nil }
        nanosecondsPerByte = Double(microseconds) * 1000 / Double(bytes)
        // By the ranges at most 2^17 bytes of 2^42 nanoseconds each.
        depth = UInt64(nanosecondsPerByte * Double(max(bytes, Self.smallestBurst)))
    }
}

/// An interface's limit, which its queues share and the control thread may change while they run.
///
/// A bucket that fills at a constant rate, kept as one number: the time at which it will be full (the generic cell rate
/// algorithm, ITU-T I.371). A packet passes if the bucket will be full no later than its depth from now.
public final class RateLimit: Sendable {
    private let fullAt = Atomic<UInt64>(0)
    /// The bits of a number of nanoseconds; 0 is no limit. In one piece, so that nobody ever sees half of a new rate.
    private let nanosecondsPerByte = Atomic<UInt64>(0)
    private let depth = Atomic<UInt64>(0)

    public init(_ rate: TransferRate? = nil) { set(rate) }

    /// Holds for the next packet; nil is no limit. What passed before is forgotten with another rate, and only then: a guest
    /// that connects anew, or changes its own keys, must not earn a full bucket by that.
    public func set(_ rate: TransferRate?) {
        let (speed, burst) = ((rate?.nanosecondsPerByte ?? 0).bitPattern, rate?.depth ?? 0)
        guard speed != nanosecondsPerByte.load(ordering: .relaxed) || burst != depth.load(ordering: .relaxed) else {
            return
        }
        nanosecondsPerByte.store(speed, ordering: .relaxed)
        depth.store(burst, ordering: .relaxed)
        fullAt.store(0, ordering: .relaxed)
    }

    /// There is a limit; looked at once per turn.
    var isSet: Bool { nanosecondsPerByte.load(ordering: .relaxed) > 0 }

    /// Takes a packet of at most 64 KiB out of the bucket if it may pass now.
    ///
    /// - Returns: nanoseconds until it may; 0: it was taken.
    func take(_ bytes: Int, now: UInt64) -> UInt64 {
        let rate = Double(bitPattern: nanosecondsPerByte.load(ordering: .relaxed))
        let duration = UInt64(rate * Double(bytes))
        let depth = depth.load(ordering: .relaxed)
        var full = fullAt.load(ordering: .relaxed)
        while true {
            let next = max(full, now) &+ duration
            guard next &- now <= depth else { return next &- now &- depth }
            let (isTaken, seen) = fullAt.weakCompareExchange(expected: full, desired: next, ordering: .relaxed)
            if isTaken { return 0 }
            full = seen
        }
    }
}
