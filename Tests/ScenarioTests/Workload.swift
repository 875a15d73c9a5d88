import Loopback
import SharedRing
import XenWire

/// Chooses requests, as `Scenario.Mix` weighs them.
struct Workload {
    enum Kind { case read, write, indirectRead, indirectWrite, flush, flushWithData, barrier, discard }

    let scenario: Scenario

    func kind(_ random: inout SeededRandom) -> Kind {
        let mix = scenario.mix
        let weights: [(Kind, Int)] = [
            (.read, mix.read), (.write, mix.write), (.indirectRead, mix.indirectRead),
            (.indirectWrite, mix.indirectWrite), (.flush, mix.flush), (.flushWithData, mix.flushWithData),
            (.barrier, mix.barrier), (.discard, mix.discard),
        ]
        var choice = random.below(weights.reduce(0) { $0 + $1.1 })
        for (kind, weight) in weights {
            if choice < weight { return kind }
            choice -= weight
        }
        return .read
    }

    /// First and last sector of each segment, on the device's alignment.
    func segments(_ kind: Kind, _ random: inout SeededRandom) -> [ClosedRange<UInt8>] {
        let count =
            switch kind {
            case .flush, .discard: 0
            case .barrier: random.below(5)
            case .indirectRead, .indirectWrite: 1 + random.below(scenario.indirectSegments)
            default: 1 + random.below(random.chance(perThousand: 300) ? 11 : 3)
            }
        return (0..<count).map { _ in segment(&random) }
    }

    private func segment(_ random: inout SeededRandom) -> ClosedRange<UInt8> {
        let unit = scenario.sectorSize / 512
        let first = random.below(8 / unit)
        let last = first + random.below(8 / unit - first)
        return UInt8(first * unit)...UInt8((last + 1) * unit - 1)
    }

    /// Where a request of so many sectors begins.
    func start(sectors: Int, _ random: inout SeededRandom) -> Int {
        let unit = scenario.sectorSize / 512
        return random.below((scenario.sectors - sectors) / unit + 1) * unit
    }
}
