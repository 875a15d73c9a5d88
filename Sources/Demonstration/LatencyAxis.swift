internal import Glibc
internal import Telemetry

/// A logarithmic scale of latencies, cut into bins of equal width on paper.
struct LatencyAxis: Equatable {
    /// Decadic logarithms of nanoseconds.
    let low, high: Double

    /// A bin is 10^(1/20), one eighth, wider than the one before: twice a histogram bucket, so that no comb shows.
    static let binsPerDecade = 20.0

    /// Wide enough for all but one in a thousand values at each end, with room beside the extreme percentiles.
    init(for histograms: [HistogramSnapshot]) {
        let filled = histograms.filter { $0.total > 0 }
        let least = filled.map { $0.quantile(0.001) }.min() ?? 1000
        let most = filled.map { $0.quantile(0.999) }.max() ?? 1_000_000
        let step = Self.binsPerDecade
        low = ((log10(Double(max(least, 1))) - 0.3) * step).rounded(.down) / step
        high = ((log10(Double(max(most, 1))) + 0.3) * step).rounded(.up) / step
    }

    var bins: Int { Int(((high - low) * Self.binsPerDecade).rounded()) }

    /// From 0 at the left end to 1 at the right end.
    func position(_ nanoseconds: Double) -> Double {
        min(max((log10(max(nanoseconds, 1)) - low) / (high - low), 0), 1)
    }

    /// 1, 2 and 5 times the powers of ten within the axis, in nanoseconds.
    var ticks: [UInt64] {
        let decades = max(Int(low.rounded(.down)), 0)...max(Int(high.rounded(.up)), 0)
        let all = decades.flatMap { decade in [1.0, 2, 5].map { $0 * pow(10, Double(decade)) } }
        return all.filter { (low...high).contains(log10($0)) }.map { UInt64($0) }
    }

    /// The share of all values in each bin. Buckets that reach over a bin's edge are divided; what lies outside the axis is
    /// left out.
    func shares(_ histogram: HistogramSnapshot) -> [Double] {
        var shares = [Double](repeating: 0, count: bins)
        let total = Double(histogram.total)
        for (bucket, count) in histogram.counts.enumerated() where count > 0 {
            let start = bin(LogLinear.lowerBound(bucket))
            let end = bin(LogLinear.lowerBound(bucket + 1))
            spread(Double(count) / total, from: start, to: end, over: &shares)
        }
        return shares
    }

    /// Where a value lies, in bins from the left end.
    private func bin(_ nanoseconds: UInt64) -> Double {
        (log10(Double(max(nanoseconds, 1))) - low) * Self.binsPerDecade
    }

    private func spread(_ share: Double, from start: Double, to end: Double, over shares: inout [Double]) {
        guard end > start, end > 0, start < Double(shares.count) else { return }
        let first = Int(max(start, 0))
        let last = min(Int(end), shares.count - 1)
        for bin in first...max(first, last) {
            let overlap = min(end, Double(bin + 1)) - max(start, Double(bin))
            shares[bin] += share * max(overlap, 0) / (end - start)
        }
    }
}
