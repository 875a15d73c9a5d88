import Testing

@testable import BlockBackend

@Suite struct ExtentTableTests {
    @Test(arguments: [
        (ExtentKind.write, ExtentKind.write, false), (.write, .exclusive, true), (.exclusive, .write, true),
        (.exclusive, .exclusive, true), (.barrier, .write, true), (.write, .barrier, true), (.barrier, .barrier, true),
    ])
    func overlappingClaimsConflictByKind(earlier: ExtentKind, later: ExtentKind, mustWait: Bool) {
        let table = Claims(capacity: 4)
        let first = table.claim(earlier, 8..<16, tag: 1, owner: 0)
        let second = table.claim(later, 15..<20, tag: 2, owner: 1)
        #expect(first.outcome == .granted)
        #expect(second.outcome == (mustWait ? .waits : .granted))
        #expect(table.leave(first.ticket) == (mustWait ? 0b10 : 0))
        #expect(table.granted(1) == (mustWait ? [2] : []))
        #expect(table.leave(second.ticket) == 0)
        #expect(table.count == 0)
    }

    @Test func neighboursDoNotConflict() {
        let table = Claims(capacity: 4)
        #expect(table.claim(.exclusive, 0..<8, tag: 1, owner: 0).outcome == .granted)
        #expect(table.claim(.exclusive, 8..<16, tag: 2, owner: 0).outcome == .granted)
        #expect(table.claim(.exclusive, 16..<17, tag: 3, owner: 1).outcome == .granted)
    }

    /// The same sectors, three times: each waits for all before it, in order.
    @Test func ordersByArrival() {
        let table = Claims(capacity: 8)
        let claims = (0..<3).map { table.claim(.exclusive, 0..<8, tag: UInt32($0), owner: UInt8($0)) }
        #expect(claims.map(\.outcome) == [.granted, .waits, .waits])
        #expect(table.leave(claims[0].ticket) == 0b010)
        #expect(table.granted(2) == [])
        #expect(table.granted(1) == [1])
        #expect(table.granted(1) == [])
        #expect(table.leave(claims[1].ticket) == 0b100)
        #expect(table.granted(2) == [2])
    }

    /// Nothing that comes after a barrier overtakes it, though it has not begun.
    @Test func aWaitingBarrierHoldsBackWhatIsNewer() {
        let table = Claims(capacity: 8)
        let old = table.claim(.write, 0..<8, tag: 0, owner: 0)
        let barrier = table.claim(.barrier, 0..<0, tag: 1, owner: 1)
        let new = table.claim(.write, 1000..<1008, tag: 2, owner: 2)
        #expect([old.outcome, barrier.outcome, new.outcome] == [.granted, .waits, .waits])
        #expect(table.leave(old.ticket) == 0b010)
        #expect(table.granted(1) == [1])
        #expect(table.leave(barrier.ticket) == 0b100)
        #expect(table.granted(2) == [2])
    }

    @Test func aFullTableTurnsAwayAndWakes() {
        let table = Claims(capacity: 2)
        let first = table.claim(.write, 0..<8, tag: 0, owner: 3)
        _ = table.claim(.write, 0..<8, tag: 1, owner: 3)
        #expect(table.claim(.write, 0..<8, tag: 2, owner: 63).outcome == .full)
        #expect(table.leave(first.ticket) == 1 << 63)
        #expect(table.claim(.write, 0..<8, tag: 2, owner: 63).outcome == .granted)
    }

    @Test func aWaitingClaimCanBeGivenUp() {
        let table = Claims(capacity: 4)
        let first = table.claim(.exclusive, 0..<8, tag: 0, owner: 0)
        let second = table.claim(.exclusive, 4..<12, tag: 1, owner: 1)
        let third = table.claim(.exclusive, 10..<20, tag: 2, owner: 2)
        #expect([first.outcome, second.outcome, third.outcome] == [.granted, .waits, .waits])
        #expect(table.leave(second.ticket) == 0b100)
        #expect(table.granted(2) == [2])
        #expect(table.leave(first.ticket) == 0)
        #expect(table.leave(third.ticket) == 0)
        #expect(table.count == 0)
    }

    /// Random claims and leaves against the rule itself, worked out on a plain list.
    @Test(arguments: 1...8) func randomHistoriesFollowTheRule(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let table = Claims(capacity: 24)
        var model = ExtentModel()
        for tag in UInt32(0)..<1000 {
            if Bool.random(using: &random) {
                let start = UInt64.random(in: 0..<64, using: &random)
                let kind: ExtentKind =
                    [.write, .write, .exclusive, .exclusive, .barrier].randomElement(using: &random) ?? .write
                let claim = table.claim(
                    kind, start..<start + UInt64.random(in: 1...8, using: &random), tag: tag,
                    owner: UInt8.random(in: 0..<4, using: &random))
                #expect((claim.outcome == .full) == (model.claims.count == 24))
                if claim.outcome != .full { model.enter(claim) }
                #expect(claim.outcome == .full || (claim.outcome == .granted) == model.isGranted(tag))
            } else if let victim = model.claims.filter({ model.isGranted($0.tag) }).randomElement(using: &random) {
                _ = table.leave(victim.ticket)
                model.leave(victim.tag)
            }
            for owner in UInt8(0)..<4 { model.told.formUnion(table.granted(owner)) }
            #expect(model.grantedTags == model.told.intersection(model.tags), "after \(tag)")
            #expect(table.count == model.claims.count)
        }
    }
}

/// A table behind a class: `#expect` cannot look into a noncopyable variable.
private final class Claims {
    private var table: ExtentTable

    init(capacity: Int) { table = ExtentTable(capacity: capacity) }

    var count: Int { table.count }

    func claim(_ kind: ExtentKind, _ range: Range<UInt64>, tag: UInt32, owner: ExtentOwner) -> ExtentClaim {
        var claim = ExtentClaim(kind, start: range.lowerBound, end: range.upperBound, tag: tag)
        table.enter(&claim, owner: owner)
        return claim
    }

    func leave(_ ticket: UInt16) -> UInt64 { table.leave(ticket) }

    func granted(_ owner: ExtentOwner) -> [UInt32] {
        var tags: [UInt32] = []
        while let tag = table.takeGranted(owner) { tags.append(tag) }
        return tags
    }
}

/// The rule on a list: granted when no earlier conflicting claim is left.
private struct ExtentModel {
    var claims: [ExtentClaim] = []
    /// Tags that the table has called granted, at once or later.
    var told: Set<UInt32> = []

    mutating func enter(_ claim: ExtentClaim) {
        claims.append(claim)
        if claim.outcome == .granted { told.insert(claim.tag) }
    }

    mutating func leave(_ tag: UInt32) { claims.removeAll { $0.tag == tag } }

    var tags: Set<UInt32> { Set(claims.map(\.tag)) }
    var grantedTags: Set<UInt32> { Set(claims.map(\.tag).filter(isGranted)) }

    func isGranted(_ tag: UInt32) -> Bool {
        guard let index = claims.firstIndex(where: { $0.tag == tag }) else { return false }
        return claims[..<index].allSatisfy { earlier in !Self.conflict(earlier, claims[index]) }
    }

    private static func conflict(_ one: ExtentClaim, _ other: ExtentClaim) -> Bool {
        switch (one.kind, other.kind) {
        case (.barrier, _), (_, .barrier): true
        case (.write, .write): false
        default: (one.start..<one.end).overlaps(other.start..<other.end)
        }
    }
}
