/// What happened to the disk as the guest saw it, one register per sector: is there an order of all reads and writes, each
/// at one moment between its request and its answer, in which every read returns what was written last?
///
/// Every write's value is its own, so that can be told for sure (Gibbons and Korach, Testing Shared Memories, 1997): a
/// value's zone lies between the first end and the last beginning of all that wrote or read it. If the end comes first,
/// the sector had this value all the time between, and no other value may have such a time that overlaps it, or a zone,
/// of operations all under way at once, within it.
struct History {
    private struct Zone {
        let sector: Int
        let write: UInt32
        var isWritten: Bool
        var firstEnd: Int
        var lastStart: Int

        var isForward: Bool { firstEnd < lastStart }

        func excludes(_ other: Zone) -> Bool {
            isForward && firstEnd < other.lastStart && other.firstEnd < lastStart
        }
    }

    private var zones: [Zone]

    /// Each sector holds write 0.
    init(sectors: Int) {
        zones = (0..<sectors).map { Zone(sector: $0, write: 0, isWritten: true, firstEnd: -1, lastStart: -1) }
    }

    /// A sector was written by, or reads as the content of, a write, by a request that was open at these times.
    mutating func note(_ write: UInt32, sector: Int, isWrite: Bool, from start: Int, to end: Int) {
        guard let place = zones.firstIndex(where: { $0.sector == sector && $0.write == write }) else {
            zones.append(Zone(sector: sector, write: write, isWritten: isWrite, firstEnd: end, lastStart: start))
            return
        }
        zones[place].isWritten = zones[place].isWritten || isWrite
        zones[place].firstEnd = min(zones[place].firstEnd, end)
        zones[place].lastStart = max(zones[place].lastStart, start)
    }

    /// What cannot be; all requests are answered.
    func contradiction() -> String? {
        for (place, zone) in zones.enumerated() {
            guard zone.isWritten else { return "sector \(zone.sector) reads as write \(zone.write), of other sectors" }
            for (otherPlace, other) in zones.enumerated()
            where otherPlace != place && other.sector == zone.sector && zone.excludes(other) {
                return "sector \(zone.sector): write \(other.write) comes between write \(zone.write) and its last read"
            }
        }
        return nil
    }
}
