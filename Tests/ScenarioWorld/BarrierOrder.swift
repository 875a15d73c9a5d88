import Loopback
import Uring

/// Whether barriers order the whole device: what was written before one is durable before its own data is written, and its
/// data is durable before anything later is written. Kills do not change that: a write done twice is done twice before.
struct BarrierOrder {
    private struct Write {
        let number: Int
        let isBarrier: Bool
        let queue: Int
        var issued = Int.max
        var ended = Int.max
    }

    /// By queue, in the ring's order.
    private var rings: [[Write]] = []
    private var places: [Int: (queue: Int, place: Int)] = [:]

    mutating func put(_ number: Int?, _ isBarrier: Bool, queue: Int) {
        guard let number else { return }
        while rings.count <= queue { rings.append([]) }
        places[number] = (queue, rings[queue].count)
        rings[queue].append(Write(number: number, isBarrier: isBarrier, queue: queue))
    }

    mutating func issued(_ number: Int, at time: Int) {
        if let place = places[number] { rings[place.queue][place.place].issued = time }
    }

    mutating func ended(_ number: Int, at time: Int) {
        if let place = places[number] { rings[place.queue][place.place].ended = time }
    }

    func violation(_ effects: [ModelVolume.Effect]) -> String? {
        let timeline = Timeline(effects)
        for ring in rings {
            if let violation = violation(ring, timeline) { return violation }
            if let violation = violation(ring.reversed(), timeline.reversed) { return violation }
        }
        let all = rings.joined().filter { timeline.spans[$0.number] != nil }
        return aloneness(all, timeline) ?? acrossQueues(all, timeline)
    }

    /// Whatever comes earlier has had its effects before a barrier, with a flush between; of reversed lists, later.
    private func violation(_ ring: some Sequence<Write>, _ timeline: Timeline) -> String? {
        var last = (position: -1, number: 0)
        for write in ring {
            guard let span = timeline.spans[write.number] else { continue }
            if write.isBarrier, !timeline.isOrdered(last.position, span.lowerBound) {
                return "barrier \(write.number) and write \(last.number) of its queue are not in order"
            }
            // What lies between two barriers is compared with both; only the last effect matters.
            if span.upperBound > last.position { last = (span.upperBound, write.number) }
        }
        return nil
    }

    private func aloneness(_ all: [Write], _ timeline: Timeline) -> String? {
        for barrier in all where barrier.isBarrier {
            guard let span = timeline.spans[barrier.number] else { continue }
            if let other = timeline.stranger(in: span, barrier.number) {
                return "write \(other) took effect during barrier \(barrier.number)"
            }
        }
        return nil
    }

    /// Of other queues, what was answered before the barrier was issued came earlier, and the reverse.
    private func acrossQueues(_ all: [Write], _ timeline: Timeline) -> String? {
        for barrier in all where barrier.isBarrier {
            guard let span = timeline.spans[barrier.number] else { continue }
            for write in all where write.queue != barrier.queue {
                guard let other = timeline.spans[write.number] else { continue }
                let isWrong =
                    write.ended < barrier.issued && !timeline.isOrdered(other.upperBound, span.lowerBound)
                    || write.issued > barrier.ended && !timeline.isOrdered(span.upperBound, other.lowerBound)
                if isWrong { return "barrier \(barrier.number) and write \(write.number) are not in order" }
            }
        }
        return nil
    }
}

/// When each write took effect, as positions in the volume's list of effects.
private struct Timeline {
    /// From a write's first effect to its last.
    private(set) var spans: [Int: ClosedRange<Int>] = [:]
    /// Flushes before each position.
    private var flushes: [Int] = [0]
    /// Whose effect is at each position; nil: nobody's.
    private var owners: [Int?] = []

    init(_ effects: [ModelVolume.Effect]) {
        for (position, effect) in effects.enumerated() {
            let write = effect.kind == .write ? Int(effect.firstWord >> 32) : nil
            flushes.append((flushes.last ?? 0) + (effect.kind == .synchronize ? 1 : 0))
            owners.append(write)
            guard let write else { continue }
            spans[write] = (spans[write]?.lowerBound ?? position)...position
        }
    }

    /// The same, read from its end.
    var reversed: Timeline {
        var result = self
        let last = owners.count - 1
        result.owners.reverse()
        result.spans = spans.mapValues { last - $0.upperBound...last - $0.lowerBound }
        let total = flushes.last ?? 0
        result.flushes = flushes.reversed().map { total - $0 }
        return result
    }

    /// The first effect is before the second, and a flush between them; -1: there is none.
    func isOrdered(_ first: Int, _ second: Int) -> Bool {
        first < 0 || first < second && flushes[second] > flushes[first + 1]
    }

    /// Somebody else's effect in a barrier's span.
    func stranger(in span: ClosedRange<Int>, _ number: Int) -> Int? {
        for position in span {
            if let owner = owners[position], owner != number { return owner }
        }
        return nil
    }
}
