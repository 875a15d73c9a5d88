import XenWire

/// What a disk may hold, one register per 512-byte sector: a read returns the last write that was answered before the
/// read was issued, or one that was under way at the same time.
struct SectorOracle {
    /// The content of a sector names the write that it came from and the sector that it was meant for.
    enum Content {
        /// The first word of a sector, repeated to its end. Never 0: that is what a discard leaves.
        static func word(write: UInt32, sector: Int) -> UInt64 {
            UInt64(write) << 32 | 0x8000_0000 | UInt64(sector)
        }
        /// The write that a sector holds after nothing but its making.
        static let initial: UInt32 = 0
    }

    private struct Write {
        let issued: Int
        var ended: Int?
        var isCertain = false
        /// Zeroes, or leaves the sector as it is.
        let isDiscard: Bool
    }

    private var writes = [Write(issued: -1, ended: -1, isCertain: true, isDiscard: false)]
    private var bySector: [[Int]]

    init(sectors: Int) {
        bySector = Array(repeating: [Int(Content.initial)], count: sectors)
    }

    /// The number for a new write; it does not count before it is issued.
    mutating func number(isDiscard: Bool) -> UInt32 {
        writes.append(Write(issued: .max, ended: nil, isDiscard: isDiscard))
        return UInt32(writes.count - 1)
    }

    /// The guest showed a write to the backend.
    mutating func issued(_ write: UInt32, _ sectors: Range<Int>, at time: Int) {
        let old = writes[Int(write)]
        writes[Int(write)] = Write(issued: time, ended: nil, isDiscard: old.isDiscard)
        for sector in sectors { bySector[sector].append(Int(write)) }
    }

    /// The guest saw the answer. A failed write may have happened in part.
    mutating func ended(_ write: UInt32, at time: Int, succeeded: Bool) {
        writes[Int(write)].ended = time
        writes[Int(write)].isCertain = succeeded && !writes[Int(write)].isDiscard
    }

    /// Whether a read of `sector`, issued and ended at these times, may return content that starts with `word`.
    func allows(_ word: UInt64, sector: Int, issued: Int, ended: Int) -> Bool {
        let history = bySector[sector]
        if word == 0 {
            return history.contains { writes[$0].isDiscard && isVisible($0, history, issued, ended) }
        }
        let write = Int(word >> 32)
        guard word == Content.word(write: UInt32(write), sector: sector), history.contains(write) else { return false }
        return isVisible(write, history, issued, ended)
    }

    /// Issued before the read ended, and not certainly overwritten before the read was issued.
    private func isVisible(_ write: Int, _ history: [Int], _ issued: Int, _ ended: Int) -> Bool {
        guard writes[write].issued < ended else { return false }
        guard let end = writes[write].ended else { return true }
        return !history.contains { other in
            writes[other].isCertain && writes[other].issued > end && (writes[other].ended ?? .max) < issued
        }
    }
}
