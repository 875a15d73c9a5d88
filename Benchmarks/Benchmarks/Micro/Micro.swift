import Benchmark
import SharedRing
import Telemetry
import XenWire

// The pieces of the hot path, one at a time. Side by side with other backends: `Benchmarks/run`.
let benchmarks: @Sendable () -> Void = {
    // The library reads it after this closure, on the same thread.
    unsafe Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock, .throughput], scalingFactor: .kilo, maxDuration: .seconds(1), maxIterations: 10_000)

    for abi in BlockABI.allCases {
        Benchmark("ring: 32 requests there and back, \(abi)") { benchmark in
            let rings = RingPair(abi)
            for _ in benchmark.scaledIterations { blackHole(rings.roundTrip(32)) }
        }
    }

    Benchmark("request: decode and judge 11 segments") { benchmark in
        let request = RequestBytes(segments: 11)
        for _ in benchmark.scaledIterations { blackHole(request.judge()) }
    }

    Benchmark("grant copy: 8 pages to the guest") { benchmark in
        let copies = try GrantCopies()
        for _ in benchmark.scaledIterations { blackHole(copies.copy()) }
    }

    Benchmark("histogram: record a latency") { benchmark in
        let cells = Cells(count: LogLinear.buckets)
        let writer = cells.writer
        for iteration in benchmark.scaledIterations {
            writer.add(LogLinear.bucket(UInt64(iteration) &* 977), 1)
        }
        blackHole(cells.load(0))
    }
}
