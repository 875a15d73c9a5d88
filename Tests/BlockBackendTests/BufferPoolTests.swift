import Testing

@testable import BlockBackend

/// A block that a test holds.
private struct Held {
    let page: UInt16
    let order: Int
    var pages: Range<Int> { Int(page)..<Int(page) + 1 << order }
}

@Test func blocksNeverOverlapAndStayUnderTheCeiling() throws {
    var random = SeededGenerator(seed: 7)
    var pool = try BufferPool(ceiling: 1 << 20)
    var held: [Held] = []
    var used = Set<Int>()
    for _ in 0..<20_000 {
        if Bool.random(using: &random) || held.isEmpty {
            let order = Int.random(in: 0...BufferPool.maximumOrder, using: &random)
            var page = pool.allocate(order: order)
            if page == nil, pool.canGrow {
                _ = unsafe pool.grow()
                page = pool.allocate(order: order)
            } else if page == nil, pool.merge() {
                page = pool.allocate(order: order)
            }
            guard let page else { continue }
            let block = Held(page: page, order: order)
            #expect(used.isDisjoint(with: block.pages))
            #expect(block.pages.upperBound <= 256)
            #expect(Int(page) % (1 << order) == 0, "blocks are aligned to their size")
            used.formUnion(block.pages)
            held.append(block)
        } else {
            let block = held.remove(at: Int.random(in: held.indices, using: &random))
            used.subtract(block.pages)
            pool.release(block.page, order: block.order)
        }
    }
}

@Test func allMemoryCanBeMergedAgain() throws {
    var pool = try BufferPool(ceiling: 1 << 20)
    var pages: [UInt16] = []
    while true {
        if let page = pool.allocate(order: 0) {
            pages.append(page)
        } else if pool.canGrow {
            _ = unsafe pool.grow()
        } else {
            break
        }
    }
    #expect(pages.count == 256)
    for page in pages { pool.release(page, order: 0) }
    do {
        let got = pool.merge()
        #expect(got)
    }
    for _ in 0..<8 {
        do {
            let got = pool.allocate(order: BufferPool.maximumOrder)
            #expect(got != nil)
        }
    }
    do {
        let got = pool.allocate(order: 0)
        #expect(got == nil)
    }
    do {
        let got = pool.merge()
        #expect(!got, "nothing was freed since")
    }
}

@Test func shrinkingGivesSlabsBack() throws {
    var pool = try BufferPool(ceiling: 4 << 20)
    _ = unsafe pool.grow()
    guard let page = pool.allocate(order: 2) else {
        Issue.record("a fresh slab has room")
        return
    }
    pool.release(page, order: 2)
    do {
        let got = pool.resident
        #expect(got == 1 << 20)
    }
    pool.shrink()
    do {
        let got = pool.resident
        #expect(got == 0)
    }
    do {
        let got = pool.allocate(order: 0)
        #expect(got == nil)
    }
    do {
        let got = pool.canGrow
        #expect(got)
    }
}

@Test func aCeilingBelowTheMinimumIsRaised() throws {
    let pool = try BufferPool(ceiling: 1)
    do {
        let got = pool.ceiling
        #expect(got == BufferPool.minimumCeiling)
    }
}

@Test func reservedPagesAreNeverHandedOut() throws {
    var pool = try BufferPool(ceiling: 4 << 20, reserved: 512)
    do {
        let got = pool.reservesPages
        #expect(got)
    }
    while !pool.hasReservedPages { _ = unsafe pool.grow() }
    _ = unsafe pool.grow()
    while let page = pool.allocate(order: 0) { #expect(page >= 512) }
    let greedy = try BufferPool(ceiling: 1 << 20, reserved: 512)
    let granted = greedy.reservesPages
    #expect(!granted, "not more than half of the ceiling")
}
