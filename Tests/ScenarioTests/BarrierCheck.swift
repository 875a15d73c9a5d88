import Loopback
import Uring
import XenWire

extension World {
    /// Barriers order the whole device: what was written before one is durable before its own data is written, and its
    /// data is durable before anything later is written.
    func checkBarriers() {
        let timeline = Timeline(disk.volume.effects)
        let all = frontends.enumerated().flatMap { queue, frontend in frontend.writes.map { (queue, $0) } }
        for (queue, barrier) in all where barrier.isBarrier {
            guard let span = timeline.spans[barrier.write] else { continue }
            for (other, write) in all where write.write != barrier.write {
                guard let written = timeline.spans[write.write] else { continue }
                let isSame = queue == other
                // Ring indices wrap; less than half the number space apart, the difference tells the order.
                let isEarlier = Int32(bitPattern: write.position &- barrier.position) < 0
                if write.ended < barrier.issued || (isSame && isEarlier) {
                    expect(written, before: span, timeline, "barrier \(barrier.write) after \(write.write)")
                } else if write.issued > barrier.ended || isSame {
                    expect(span, before: written, timeline, "\(write.write) after barrier \(barrier.write)")
                } else if timeline.positions(of: write.write).contains(where: span.contains) {
                    // A write at the same time may be split in two by the barrier, but the barrier is alone.
                    complain("write \(write.write) took effect during barrier \(barrier.write)")
                }
            }
        }
    }

    private func expect(
        _ first: ClosedRange<Int>, before second: ClosedRange<Int>, _ timeline: Timeline, _ what: String
    ) {
        let isOrdered = first.upperBound < second.lowerBound
        if !isOrdered || !timeline.isSynchronized(between: first.upperBound, and: second.lowerBound) {
            complain("\(what): effects \(first) and \(second), ordered \(isOrdered)")
        }
    }
}

/// When each write took effect, as positions in the volume's list of effects.
private struct Timeline {
    /// From a write's first effect to its last.
    private(set) var spans: [UInt32: ClosedRange<Int>] = [:]
    private var positions: [UInt32: [Int]] = [:]
    private var synchronizations: [Int] = []

    init(_ effects: [ModelVolume.Effect]) {
        for (position, effect) in effects.enumerated() {
            switch effect.kind {
            case .synchronize: synchronizations.append(position)
            case .write:
                let write = UInt32(effect.firstWord >> 32)
                let first = spans[write]?.lowerBound ?? position
                spans[write] = first...position
                positions[write, default: []].append(position)
            case .read: break
            }
        }
    }

    func positions(of write: UInt32) -> [Int] { positions[write] ?? [] }

    func isSynchronized(between first: Int, and second: Int) -> Bool {
        synchronizations.contains { $0 > first && $0 < second }
    }
}
