import Telemetry
import Testing

@testable import Demonstration
@testable import Loopback

struct LatencyPictureTests {
    private static func picture(_ curves: [(String, HistogramSnapshot)], title: String = "Latency") -> String {
        let panel = LatencyPicture.Panel(
            "4 KiB", curves.map { .init($0.0, ReadFigures(readsPerSecond: 1234, bytesPerSecond: 1, latency: $0.1)) })
        return LatencyPicture(title: title, subtitle: "a machine", panels: [panel]).svg
    }

    /// Values of a ring and of a tool that is somewhat quicker.
    private static let ring = HistogramSnapshot.of((0..<10_000).map { 20_000 + $0 * 3 })
    private static let fio = HistogramSnapshot.of((0..<10_000).map { 15_000 + $0 * 2 })

    @Test func `title, axes, legend, percentiles and throughput are there`() {
        let svg = Self.picture([("ring", Self.ring), ("fio", Self.fio)])
        for text in [
            ">Latency<", ">a machine<", ">ring<", ">fio<", "microseconds", "Share of", ">p50<", ">p99<",
            "p50 \(Quantity.microseconds(Self.ring.quantile(0.5))) µs",
            "p99 \(Quantity.microseconds(Self.fio.quantile(0.99))) µs", "ring 1,234 IOPS", ">20<", ">50<",
        ] { #expect(svg.contains(text), "\(text)") }
    }

    @Test func `elements are closed and text is escaped`() {
        let svg = Self.picture([("<ring> & \"co\"", Self.ring)], title: "a < b")
        #expect(svg.contains("a &lt; b"))
        #expect(svg.contains("&lt;ring&gt; &amp; &quot;co&quot;"))
        let tags = svg.split(separator: "<").dropFirst().map { $0.prefix { $0 != ">" } }
        var open: [Substring] = []
        for tag in tags {
            if tag.hasPrefix("/") {
                #expect(open.popLast().map { "/\($0)" } == String(tag))
            } else if !tag.hasSuffix("/") {
                open.append(tag.prefix { $0 != " " })
            }
        }
        #expect(open.isEmpty)
    }

    @Test(arguments: [[], [0], [.max], [1, .max]] as [[UInt64]])
    func `every distribution can be drawn`(values: [UInt64]) {
        let svg = Self.picture([("ring", .of(values))])
        #expect(!svg.contains("nan") && !svg.contains("inf") && !svg.contains("=\"-\""))
    }

    @Test func `shares of all values add up to one`() {
        let axis = LatencyAxis(for: [Self.ring, Self.fio])
        for histogram in [Self.ring, Self.fio] {
            let shares = axis.shares(histogram)
            #expect(shares.count == axis.bins)
            #expect(abs(shares.reduce(0, +) - 1) < 1e-9)
        }
    }

    @Test func `a bucket is divided between the bins that it touches`() {
        // Eight hundred values evenly over 16 to 32 µs: no bin may stand out from its neighbours as a comb would.
        let shares = LatencyAxis(for: [Self.ring]).shares(.of((0..<8000).map { 16_000 + $0 * 2 }))
        let inner = shares.filter { $0 > 0 }.dropFirst(2).dropLast(2)
        #expect(inner.count > 1)
        for (left, right) in zip(inner, inner.dropFirst()) { #expect(right > left * 0.95 && right < left * 1.4) }
    }

    @Test func `the axis is logarithmic and its ticks lie on it`() {
        let axis = LatencyAxis(for: [.of([1_000, 1_000_000])])
        let (one, ten, hundred) = (axis.position(1_000), axis.position(10_000), axis.position(100_000))
        #expect(abs((ten - one) - (hundred - ten)) < 1e-9)
        #expect(axis.ticks.contains(10_000) && axis.ticks.contains(1_000_000) && axis.ticks.contains(500_000))
        for tick in axis.ticks { #expect((0...1).contains(axis.position(Double(tick)))) }
        #expect(axis.position(0) == 0 && axis.position(1e15) == 1)
    }
}
