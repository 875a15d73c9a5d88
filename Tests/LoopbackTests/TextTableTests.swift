import Demonstration
import Loopback
import Telemetry
import Testing

struct TextTableTests {
    @Test(arguments: [
        (0.0, "0"), (999.4, "999"), (999.5, "1,000"), (1_234_567, "1,234,567"), (-1000, "-1,000"), (-0.2, "0"),
        (.infinity, "-"), (1e300, "-"),
    ])
    func `thousands are apart`(number: Double, text: String) {
        #expect(Quantity.grouped(number) == text)
    }

    @Test(arguments: [
        (0.0, 2, "0.00"), (0.996, 2, "1.00"), (12.05, 1, "12.1"), (-1.25, 1, "-1.3"), (-0.001, 2, "0.00"),
        (7.6, 0, "8"),
        (.nan, 2, "-"), (1.0203, 3, "1.020"),
    ])
    func `decimals are fixed`(number: Double, decimals: Int, text: String) {
        #expect(Quantity.fixed(number, decimals: decimals) == text)
    }

    @Test(arguments: [
        (0 as UInt64, "0.00"), (1_940, "1.94"), (9_996, "10.0"), (23_440, "23.4"), (99_960, "100"),
        (4_310_000, "4,310"),
    ])
    func `microseconds have three digits`(nanoseconds: UInt64, text: String) {
        #expect(Quantity.microseconds(nanoseconds) == text)
    }

    @Test func `columns are aligned`() {
        var table = TextTable(["", "size", "n"])
        table.add(["first", "1", "22"])
        table.add(["x"])
        table.add(["y", "12345", "3", "too many"])
        #expect(table.lines == ["        size   n", "first      1  22", "x", "y      12345   3"])
    }

    @Test func `a comparison has a line for each side`() {
        let workload = ReadWorkload(.random, blockBytes: 4096, depth: 1)
        let figures = ReadFigures(readsPerSecond: 1000, bytesPerSecond: 4_096_000, latency: .of([2000]))
        let double = ReadFigures(readsPerSecond: 2000, bytesPerSecond: 8_192_000, latency: .of([1000]))
        let lines = TextTable([
            ReadComparison(workload, ring: figures, reference: double),
            ReadComparison(workload, ring: figures, reference: nil),
        ]).lines
        #expect(lines.count == 4)
        #expect(lines[1].hasPrefix("4 KiB random read, depth 1  ring") && lines[1].hasSuffix("0.50"))
        #expect(lines[2].contains("fio") && lines[2].contains("2,000"))
        #expect(lines[3].contains("ring") && !lines[3].hasSuffix("0.50"))
    }
}

extension HistogramSnapshot {
    /// A histogram of these values.
    static func of(_ values: [UInt64]) -> HistogramSnapshot {
        var counts = [UInt64](repeating: 0, count: LogLinear.buckets)
        for value in values { counts[LogLinear.bucket(value)] += 1 }
        return HistogramSnapshot(counts: counts, sum: values.reduce(0, &+))
    }
}
