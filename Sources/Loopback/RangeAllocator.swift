/// Hands out ranges of numbers (frames, grant references), first fit.
struct RangeAllocator: Sendable {
    private var free: [Range<UInt32>]

    init(_ all: Range<UInt32>) {
        free = all.isEmpty ? [] : [all]
    }

    /// The first number of `count` free ones in a row, or nil if there are none.
    mutating func take(_ count: UInt32) -> UInt32? {
        guard count > 0, let index = free.firstIndex(where: { $0.count >= count }) else { return nil }
        let start = free[index].lowerBound
        let rest = start &+ count..<free[index].upperBound
        if rest.isEmpty { free.remove(at: index) } else { free[index] = rest }
        return start
    }

    /// Gives a range back that `take` returned.
    mutating func give(_ start: UInt32, _ count: UInt32) {
        let index = free.firstIndex { $0.lowerBound > start } ?? free.endIndex
        free.insert(start..<start &+ count, at: index)
        merge(at: index + 1)
        merge(at: index)
    }

    /// Joins the range at `index` with the one before it, if they touch.
    private mutating func merge(at index: Int) {
        guard index > 0, index < free.count, free[index - 1].upperBound == free[index].lowerBound else { return }
        free[index - 1] = free[index - 1].lowerBound..<free[index].upperBound
        free.remove(at: index)
    }
}
