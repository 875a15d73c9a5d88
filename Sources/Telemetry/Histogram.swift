/// The arithmetic of a log-linear histogram: 16 linear steps per power of two, so a value is known to 1/16 of itself.
public enum LogLinear {
    /// Buckets that cover values up to 2^40 - 1 (nanoseconds: 18 minutes); larger ones count in the last.
    @inlinable public static var buckets: Int { @_noLocks get { 16 * 37 } }

    /// The bucket of a value.
    @inlinable @_noLocks public static func bucket(_ value: UInt64) -> Int {
        guard value >= 16 else { return Int(truncatingIfNeeded: value) }
        let exponent = 63 &- value.leadingZeroBitCount  // at least 4
        let step = Int(truncatingIfNeeded: value &>> UInt64(truncatingIfNeeded: exponent &- 4)) & 15
        let bucket = (exponent &- 3) &* 16 &+ step
        return bucket < buckets ? bucket : buckets &- 1
    }

    /// The smallest value that falls into a bucket.
    public static func lowerBound(_ bucket: Int) -> UInt64 {
        guard bucket >= 16 else { return UInt64(max(bucket, 0)) }
        return UInt64(16 + bucket % 16) << UInt64(bucket / 16 - 1)
    }
}

/// A histogram at one moment, for reports.
public struct HistogramSnapshot: Sendable, Equatable {
    /// Counts by `LogLinear` bucket.
    public let counts: [UInt64]
    /// Sum of all values.
    public let sum: UInt64

    /// A snapshot from counts by bucket.
    public init(counts: [UInt64], sum: UInt64) {
        self.counts = counts
        self.sum = sum
    }

    /// How many values.
    public var total: UInt64 { counts.reduce(0, &+) }

    /// The mean, 0 without values.
    public var mean: Double { total == 0 ? 0 : Double(sum) / Double(total) }

    /// The value below which `fraction` of all values lie (the middle of its bucket); 0 without values.
    public func quantile(_ fraction: Double) -> UInt64 {
        let rank = Double(total) * min(max(fraction, 0), 1)
        var seen: UInt64 = 0
        for (bucket, count) in counts.enumerated() where count > 0 {
            seen &+= count
            if Double(seen) >= rank {
                return (LogLinear.lowerBound(bucket) &+ LogLinear.lowerBound(bucket + 1)) / 2
            }
        }
        return 0
    }

    /// Both taken together, as for the queues of one device.
    public func merged(with other: HistogramSnapshot) -> HistogramSnapshot {
        let length = max(counts.count, other.counts.count)
        let sums = (0..<length).map { index in
            (index < counts.count ? counts[index] : 0) &+ (index < other.counts.count ? other.counts[index] : 0)
        }
        return HistogramSnapshot(counts: sums, sum: sum &+ other.sum)
    }
}
