import Loopback

/// The history of a disk as its guests saw it, one register per sector, and whether it is linearizable.
///
/// Every write has a content of its own, so a read tells which write it saw. Then the question is decided by zones (Gibbons
/// and Korach, Testing Shared Memories, 1997): a value's operations are its write and the reads that saw it; its zone lies
/// between their first end and their last beginning. A history is linearizable if and only if no read ends before its
/// value's write begins, no two zones in which the end comes first overlap, and none of those contains one of the others.
/// That includes A-B-A and reads that are out of date.
package struct RegisterHistory {
    /// The first word of a sector, repeated to its end, names the write that it came from and the sector that it was meant
    /// for.
    package enum Content {
        package static func word(write: Int, sector: Int) -> UInt64 {
            UInt64(write) << 32 | 0x8000_0000 | UInt64(sector)
        }
    }

    /// The write that made the disk.
    package static let making = 0

    private struct Write {
        let sectors: Range<Int>
        /// Its first sector's value.
        let values: Int
        var issued = Int.max
        var ended = Int.max
        /// It was answered with success; else it may have happened in any part, while it was under way.
        var isCertain = false
    }

    /// What one write put into one sector.
    private struct Value {
        /// The first end of a read that saw it, and the last beginning of one.
        var firstEnd = Int.max
        var lastBegin = Int.min
        var wasRead: Bool { lastBegin > .min }
    }

    /// Between the first end and the last beginning of a value's operations.
    private struct Zone {
        let firstEnd: Int
        let lastBegin: Int
        let write: Int
        var isForward: Bool { firstEnd < lastBegin }
    }

    private var writes: [Write] = []
    private var values: [Value] = []
    private let sectors: Int

    package init(sectors: Int) {
        self.sectors = sectors
        _ = write(0..<sectors)
        issued(Self.making, at: -1)
        ended(Self.making, at: -1, succeeded: true)
    }

    /// The number of a new write; it does not count before it is issued.
    package mutating func write(_ sectors: Range<Int>) -> Int {
        writes.append(Write(sectors: sectors, values: values.count))
        for _ in sectors { values.append(Value()) }
        return writes.count - 1
    }

    /// The guest showed the write to the backend.
    package mutating func issued(_ write: Int, at time: Int) { writes[write].issued = time }

    /// The guest saw the answer.
    package mutating func ended(_ write: Int, at time: Int, succeeded: Bool) {
        writes[write].ended = time
        writes[write].isCertain = succeeded
    }

    /// A read that began and ended at these times found this word; says what is wrong with that by itself.
    package mutating func read(_ sector: Int, _ word: UInt64, began: Int, ended: Int) -> String? {
        let number = Int(word >> 32)
        guard number < writes.count, word == Content.word(write: number, sector: sector) else {
            return "sector \(sector) reads \(String(word, radix: 16)), which nobody wrote there"
        }
        let write = writes[number]
        guard write.sectors.contains(sector), write.issued <= ended else {
            return "sector \(sector) reads write \(number) before it was issued"
        }
        let value = write.values + sector - write.sectors.lowerBound
        values[value].firstEnd = min(values[value].firstEnd, ended)
        values[value].lastBegin = max(values[value].lastBegin, began)
        return nil
    }

    /// What is wrong with the whole.
    package func violation() -> String? {
        let zones = zonesBySector()
        for sector in 0..<sectors {
            if let violation = Self.violation(zones[sector]) { return "sector \(sector): \(violation)" }
        }
        return nil
    }

    private func zonesBySector() -> [[Zone]] {
        var zones = [[Zone]](repeating: [], count: sectors)
        for (number, write) in writes.enumerated() {
            for sector in write.sectors {
                let value = values[write.values + sector - write.sectors.lowerBound]
                guard write.isCertain || value.wasRead else { continue }
                zones[sector].append(
                    Zone(
                        firstEnd: min(write.ended, value.firstEnd), lastBegin: max(write.issued, value.lastBegin),
                        write: number))
            }
        }
        return zones
    }

    private static func violation(_ zones: [Zone]) -> String? {
        let forward = zones.filter(\.isForward).sorted { $0.firstEnd < $1.firstEnd }
        for (first, second) in zip(forward, forward.dropFirst()) where second.firstEnd < first.lastBegin {
            return "writes \(first.write) and \(second.write) are seen in turns"
        }
        for zone in zones where !zone.isForward {
            guard let around = last(of: forward, before: zone.lastBegin), zone.firstEnd < around.lastBegin else {
                continue
            }
            return "write \(around.write) is seen before and after write \(zone.write)"
        }
        return nil
    }

    /// The last zone that begins before a time, of zones that do not overlap.
    private static func last(of zones: [Zone], before time: Int) -> Zone? {
        var (low, high) = (0, zones.count)
        while low < high {
            let middle = (low + high) / 2
            if zones[middle].firstEnd < time { low = middle + 1 } else { high = middle }
        }
        return low > 0 ? zones[low - 1] : nil
    }
}
