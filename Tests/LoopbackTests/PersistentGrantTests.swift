import CXen
import Descriptors
import SharedRing
import Testing
import XenWire

@testable import Loopback

/// Domain 5 with 32 pages, each filled with its number, and a table in front of dom0's that keeps them mapped.
private final class Fixture {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let table: any GrantTable
    let first: UInt32

    init(budget: MappedPageBudget = MappedPageBudget(), readOnly: Bool = false) throws {
        guest = try platform.createDomain(DomainID(5), pages: 64, references: 64)
        first = try guest.allocateFrames(32)
        table = PersistentGrants(before: platform.openGrantTable(), of: DomainID(5), budget: budget)
        for page in 0..<UInt32(32) {
            unsafe try #require(guest.memory(ofFrame: first + page))
                .initializeMemory(as: UInt8.self, repeating: UInt8(page), count: 4096)
            guest.grants.grant(16 + page, frame: first + page, to: DomainID(0), readOnly: readOnly)
        }
    }

    /// Copies `pages` in one call, the whole of each; statuses, and the first byte of each private page.
    func copy(_ pages: [UInt32], domain: UInt16 = 5, _ direction: CopyDirection = .fromGuest) -> [(Int16, UInt8)] {
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: pages.count * 4096, alignment: 4096)
        defer { unsafe buffer.deallocate() }
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0xEE, count: pages.count * 4096)
        var segments = pages.enumerated().map { index, page in
            let (local, reference) = unsafe (buffer + index * 4096, GrantReference(16 + page))
            return direction == .fromGuest
                ? unsafe xen_grant_copy_segment.fromGuest(
                    DomainID(domain), reference, offset: 0, length: 4096, to: local)
                : unsafe xen_grant_copy_segment.toGuest(
                    DomainID(domain), reference, offset: 0, length: 4096, from: local)
        }
        let failed = unsafe table.copy(&segments, count: segments.count, direction)
        #expect(failed == segments.count { $0.status != XEN_GNTST_okay })
        return segments.enumerated().map { unsafe ($1.status, buffer.load(fromByteOffset: $0 * 4096, as: UInt8.self)) }
    }

    func byte(of page: UInt32) throws -> UInt8 {
        unsafe try #require(guest.memory(ofFrame: first + page)).load(fromByteOffset: 4095, as: UInt8.self)
    }

    var mapped: Int { platform.mappedPages(of: DomainID(5)) }
}

@Suite struct PersistentGrantTests {
    @Test func pagesStayMapped() throws {
        let fixture = try Fixture()
        for _ in 0..<3 {
            let copied = fixture.copy([3, 1, 2])
            #expect(copied.map(\.0) == [0, 0, 0] && copied.map(\.1) == [3, 1, 2])
            #expect(fixture.mapped == 3)
        }
        _ = fixture.copy([2, 9], .toGuest)
        #expect(try fixture.byte(of: 9) == 0xEE)
        #expect(try fixture.byte(of: 2) == 0xEE)
        #expect(try fixture.byte(of: 1) == 1)
        #expect(fixture.mapped == 4)
    }

    /// The proof that the second copy asks nobody: the grant is gone from the table, the mapping is not.
    @Test func mappedPagesNeedNoGrantTable() throws {
        let fixture = try Fixture()
        _ = fixture.copy([7])
        fixture.platform.destroyDomain(DomainID(5))
        #expect(fixture.copy([7]).map(\.1) == [7])
        #expect(fixture.copy([8]).map(\.0) == [Int16(XEN_GNTST_bad_domain)])
    }

    @Test func allGoWithTheTable() throws {
        let budget = MappedPageBudget(pages: 2)
        var fixture: Fixture? = try Fixture(budget: budget)
        let platform = try #require(fixture?.platform)
        _ = fixture?.copy([1, 2, 3])
        #expect(platform.mappedPages(of: DomainID(5)) == 2, "no more than the budget allows")
        fixture = nil
        #expect(platform.mappedPages(of: DomainID(5)) == 0)
        let next = try Fixture(budget: budget)
        _ = next.copy([1, 2, 3])
        #expect(next.mapped == 2, "the first table has given back what it took")
    }

    @Test func whatIsBeyondTheBudgetIsCopied() throws {
        let fixture = try Fixture(budget: MappedPageBudget(pages: 2))
        for _ in 0..<3 {
            let copied = fixture.copy([4, 5, 6, 5, 7, 4])
            #expect(copied.map(\.0) == [0, 0, 0, 0, 0, 0] && copied.map(\.1) == [4, 5, 6, 5, 7, 4])
        }
        #expect(fixture.mapped == 2)
    }

    /// Frontends that grant for reading what they write, as without persistent grants.
    @Test func whatCannotBeMappedWritableIsCopied() throws {
        let fixture = try Fixture(readOnly: true)
        for _ in 0..<1000 { #expect(fixture.copy([4, 5]).map(\.1) == [4, 5]) }
        #expect(fixture.copy([4], .toGuest).map(\.0) == [Int16(XEN_GNTST_permission_denied)])
        #expect(fixture.mapped == 0)
    }

    @Test func aRefusedPageFailsAlone() throws {
        let fixture = try Fixture()
        let copied = fixture.copy([1, 40, 2])
        #expect(copied.map(\.0) == [0, Int16(XEN_GNTST_general_error), 0])
        #expect(copied.map(\.1) == [1, 0xEE, 2])
        #expect(fixture.mapped == 2)
    }

    @Test func otherDomainsPagesAreNotKept() throws {
        let fixture = try Fixture()
        #expect(fixture.copy([1], domain: 6).map(\.0) == [Int16(XEN_GNTST_bad_domain)])
        #expect(fixture.mapped == 0)
    }

    /// Numbers far apart and close together, more than once around the table.
    @Test func everyReferenceKeepsItsPage() throws {
        let platform = ModelPlatform()
        let guest = try platform.createDomain(DomainID(5), pages: 1200, references: 40_000)
        let first = try guest.allocateFrames(1100)
        let table = PersistentGrants(before: platform.openGrantTable(), of: DomainID(5), budget: MappedPageBudget())
        let references = (0..<UInt32(1100)).map { $0 < 500 ? 16 + $0 : 600 + $0 * 31 }
        for (page, reference) in references.enumerated() {
            let memory = try unsafe #require(guest.memory(ofFrame: first + UInt32(page)))
            unsafe memory.storeBytes(of: UInt32(page), as: UInt32.self)
            guest.grants.grant(reference, frame: first + UInt32(page), to: DomainID(0), readOnly: false)
        }
        for _ in 0..<2 {
            for (page, reference) in references.enumerated() {
                var word: UInt32 = 0
                let copied = unsafe withUnsafeMutablePointer(to: &word) { word in
                    var segment = unsafe xen_grant_copy_segment.fromGuest(
                        DomainID(5), GrantReference(reference), offset: 0, length: 4, to: UnsafeMutableRawPointer(word))
                    return unsafe table.copy(&segment, count: 1, .fromGuest)
                }
                #expect(copied == 0 && word == UInt32(page))
            }
        }
        #expect(platform.mappedPages(of: DomainID(5)) == PersistentGrants.pagesPerQueue)
    }
}
