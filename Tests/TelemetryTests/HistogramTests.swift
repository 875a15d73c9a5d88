import Telemetry
import Testing

@Test func everyValueFallsIntoItsBucket() {
    var value: UInt64 = 0
    while value < 1 << 39 {
        let bucket = LogLinear.bucket(value)
        #expect(LogLinear.lowerBound(bucket) <= value)
        #expect(LogLinear.lowerBound(bucket + 1) > value)
        value = value < 1000 ? value + 1 : value + value / 7
    }
    #expect(LogLinear.bucket(.max) == LogLinear.buckets - 1)
    #expect(LogLinear.bucket((1 << 40) - 1) == LogLinear.buckets - 1)
}

@Test func quantilesAreWithinASixteenth() {
    var counts = [UInt64](repeating: 0, count: LogLinear.buckets)
    for value in 1...10_000 as ClosedRange<UInt64> { counts[LogLinear.bucket(value)] += 1 }
    let histogram = HistogramSnapshot(counts: counts, sum: 10_000 * 10_001 / 2)
    for (fraction, exact) in [(0.5, 5000.0), (0.9, 9000.0), (0.99, 9900.0)] {
        #expect(abs(Double(histogram.quantile(fraction)) - exact) / exact < 1 / 16)
    }
    #expect(histogram.total == 10_000)
    #expect(histogram.mean == 5000.5)
    #expect(histogram.merged(with: histogram).total == 20_000)
}

@Test func noValuesHaveNoQuantiles() {
    let empty = HistogramSnapshot(counts: [], sum: 0)
    #expect(empty.quantile(0.99) == 0)
    #expect(empty.mean == 0)
}

@Test func cellsAddUp() {
    let cells = Cells(count: 3)
    let writer = cells.writer
    writer.add(1, 5)
    writer.add(1, 6)
    writer.set(2, 9)
    #expect([cells.load(0), cells.load(1), cells.load(2), cells.load(3), cells.load(-1)] == [0, 11, 9, 0, 0])
}
