import Loopback
import ScenarioWorld
import Testing

/// The checker itself: that it finds what is wrong, and nothing else.
@Suite struct RegisterHistoryTests {
    /// One sector's history, in the order of its own times.
    private struct Builder {
        var history = RegisterHistory(sectors: 1)

        mutating func write(_ issued: Int, _ ended: Int, succeeded: Bool = true) -> Int {
            let number = history.write(0..<1)
            history.issued(number, at: issued)
            history.ended(number, at: ended, succeeded: succeeded)
            return number
        }

        mutating func read(_ write: Int, _ began: Int, _ ended: Int) -> String? {
            history.read(0, RegisterHistory.Content.word(write: write, sector: 0), began: began, ended: ended)
        }
    }

    @Test func aReadMayReturnTheLastWriteOrOneAtTheSameTime() {
        var builder = Builder()
        let first = builder.write(0, 10)
        let second = builder.write(5, 20)
        #expect(builder.read(first, 12, 13) == nil)
        #expect(builder.read(second, 14, 15) == nil)
        #expect(builder.history.violation() == nil)
    }

    @Test func aValueThatComesBackIsFound() {
        var builder = Builder()
        let first = builder.write(0, 10)
        let second = builder.write(5, 20)
        _ = builder.read(first, 12, 13)
        _ = builder.read(second, 14, 15)
        _ = builder.read(first, 16, 17)
        #expect(builder.history.violation() != nil)
    }

    @Test func aReadThatIsOutOfDateIsFound() {
        var builder = Builder()
        let first = builder.write(0, 1)
        _ = builder.write(2, 3)
        _ = builder.read(first, 4, 5)
        #expect(builder.history.violation() != nil)
    }

    @Test func aWriteThatNobodySawMayHideBetweenReadsOfAnother() {
        var builder = Builder()
        let first = builder.write(0, 1)
        _ = builder.write(2, 30)
        _ = builder.read(first, 4, 5)
        _ = builder.read(first, 26, 29)
        #expect(builder.history.violation() == nil)
    }

    @Test func anAnsweredWriteThatIsGoneIsFound() {
        var builder = Builder()
        let first = builder.write(0, 1)
        _ = builder.write(2, 3)
        _ = builder.read(first, 0, 2)
        #expect(builder.history.violation() == nil)
        _ = builder.read(first, 10, 11)
        #expect(builder.history.violation() != nil)
    }

    @Test func aFailedWriteMayHaveHappenedOrNot() {
        var (seen, unseen) = (Builder(), Builder())
        let failed = seen.write(0, 1, succeeded: false)
        _ = unseen.write(0, 1, succeeded: false)
        _ = seen.read(failed, 2, 3)
        _ = unseen.read(RegisterHistory.making, 2, 3)
        #expect(seen.history.violation() == nil && unseen.history.violation() == nil)
    }

    @Test func whatNobodyWroteIsFoundAtOnce() {
        var builder = Builder()
        let write = builder.write(10, 20)
        #expect(builder.read(write, 1, 2) != nil)
        #expect(builder.read(write + 1, 30, 31) != nil)
        #expect(builder.history.read(0, 0, began: 30, ended: 31) != nil)
    }

    /// Small random histories, against a search through all orders.
    @Test func theZonesAgreeWithASearch() {
        var random = SeededRandom(seed: 1)
        var linearizable = 0
        for _ in 0..<4000 {
            let operations = SmallHistory.random(&random)
            let isLinearizable = SmallHistory.hasOrder(operations)
            #expect(SmallHistory.check(operations) == isLinearizable, "\(operations)")
            if isLinearizable { linearizable += 1 }
        }
        #expect(linearizable > 400 && linearizable < 3600)
    }
}

/// A few operations on one sector.
private enum SmallHistory {
    struct Operation {
        /// Of the write, or of the one that a read saw.
        let write: Int
        let isRead: Bool
        let began: Int
        let ended: Int
    }

    static func random(_ random: inout SeededRandom) -> [Operation] {
        let writes = 1 + random.below(3)
        var times = Array(0..<20)
        for index in times.indices { times.swapAt(index, random.below(times.count)) }
        let numbers = (1...writes).map { ($0, false) } + (0..<4).map { _ in (random.below(writes + 1), true) }
        return numbers.map { number, isRead in
            let (first, second) = (times.removeLast(), times.removeLast())
            return Operation(write: number, isRead: isRead, began: min(first, second), ended: max(first, second))
        }
    }

    static func check(_ operations: [Operation]) -> Bool {
        var history = RegisterHistory(sectors: 1)
        var isFine = true
        for write in operations where !write.isRead {
            let number = history.write(0..<1)
            history.issued(number, at: write.began)
            history.ended(number, at: write.ended, succeeded: true)
        }
        for read in operations where read.isRead {
            let word = RegisterHistory.Content.word(write: read.write, sector: 0)
            if history.read(0, word, began: read.began, ended: read.ended) != nil { isFine = false }
        }
        return isFine && history.violation() == nil
    }

    /// Whether the operations can have happened one after the other, each between its beginning and its end.
    static func hasOrder(_ operations: [Operation], after value: Int = 0) -> Bool {
        if operations.isEmpty { return true }
        let firstEnd = operations.map(\.ended).min() ?? 0
        return operations.indices.contains { index in
            let next = operations[index]
            guard next.began <= firstEnd, !next.isRead || next.write == value else { return false }
            var rest = operations
            rest.remove(at: index)
            return hasOrder(rest, after: next.write)
        }
    }
}
