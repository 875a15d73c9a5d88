import CXen
import Descriptors
import SharedRing
import Testing
import XenWire

@testable import Loopback

/// Domain 5 with some frames, granting to dom0, and dom0's handle on it.
@safe private struct Fixture {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let table: any GrantTable
    let frame: UInt32
    let page: UnsafeMutableRawPointer

    init() throws {
        guest = try platform.createDomain(DomainID(5), pages: 64, references: 64)
        table = platform.openGrantTable()
        frame = try guest.allocateFrames(1)
        unsafe page = try #require(guest.memory(ofFrame: frame))
        unsafe page.initializeMemory(as: UInt8.self, repeating: 0x11, count: 4096)
    }

    /// Copies to or from a private buffer and returns the status and the buffer's first byte.
    func copy(
        _ reference: UInt32, offset: UInt16 = 0, length: UInt16 = 4096, domain: UInt16 = 5,
        _ direction: CopyDirection = .fromGuest
    ) -> (status: Int16, byte: UInt8) {
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { unsafe buffer.deallocate() }
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0x22, count: 4096)
        var segment =
            unsafe direction == .fromGuest
            ? xen_grant_copy_segment.fromGuest(
                DomainID(domain), GrantReference(reference), offset: offset, length: length, to: buffer)
            : xen_grant_copy_segment.toGuest(
                DomainID(domain), GrantReference(reference), offset: offset, length: length, from: buffer)
        let failed = unsafe table.copy(&segment, count: 1, direction)
        #expect((failed == 0) == (segment.status == 0))
        return unsafe (segment.status, buffer.load(as: UInt8.self))
    }

    func grant(_ reference: UInt32, frame: UInt32? = nil, to domain: UInt16 = 0, readOnly: Bool = false) {
        guest.grants.grant(reference, frame: frame ?? self.frame, to: DomainID(domain), readOnly: readOnly)
    }
}

@Test func aGrantedPageIsCopiedBothWays() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    #expect(fixture.copy(9) == (0, 0x11))
    #expect(fixture.copy(9, offset: 512, length: 512, .toGuest).status == 0)
    let around = [511, 512, 1023, 1024].map { unsafe fixture.page.load(fromByteOffset: $0, as: UInt8.self) }
    #expect(around == [0x11, 0x22, 0x22, 0x11])
}

@Test func everyRefusalOfACopyHasItsStatus() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    fixture.grant(10, readOnly: true)
    fixture.grant(11, to: 3)
    fixture.grant(12, frame: 64)
    #expect(fixture.copy(9, domain: 6).status == -2)
    #expect(fixture.copy(64).status == -3)
    #expect(fixture.copy(.max).status == -3)
    #expect(fixture.copy(13).status == -1)
    #expect(fixture.copy(11).status == -1)
    #expect(fixture.copy(10, .toGuest).status == -8)
    #expect(fixture.copy(10).status == 0)
    #expect(fixture.copy(12).status == -9)
    #expect(fixture.copy(9, offset: 4095, length: 2).status == -10)
    #expect(fixture.copy(9, offset: .max, length: .max).status == -10)
    #expect(fixture.copy(9, offset: 4096, length: 0).status == 0)
    #expect(unsafe fixture.page.load(as: UInt8.self) == 0x11)
}

@Test func aFailedSegmentFailsAlone() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    var segments = [9, 10, 9].map {
        unsafe xen_grant_copy_segment.fromGuest(DomainID(5), GrantReference($0), offset: 0, length: 8, to: buffer)
    }
    #expect(unsafe fixture.table.copy(&segments, count: 3, .fromGuest) == 1)
    #expect(segments.map(\.status) == [0, -1, 0])
}

@Test func aBatchLongerThanARecordIsCopiedWhole() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    var segments = (0..<3000).map { _ in
        unsafe xen_grant_copy_segment.fromGuest(DomainID(5), GrantReference(9), offset: 0, length: 8, to: buffer)
    }
    #expect(unsafe fixture.table.copy(&segments, count: 3000, .fromGuest) == 0)
}

@Test func mapsShowPagesInTheirOrder() throws {
    let fixture = try Fixture()
    let frames = try (0..<3).map { _ in try fixture.guest.allocateFrames(1) }
    for (index, frame) in frames.enumerated() {
        try unsafe #require(fixture.guest.memory(ofFrame: frame)).storeBytes(of: UInt8(index), as: UInt8.self)
        fixture.grant(20 + UInt32(index), frame: frame)
    }
    let mapping = try fixture.table.map([22, 20, 21].map { GrantReference($0) }, of: DomainID(5), writable: true)
    let seen = [0, 4096, 8192].map { unsafe mapping.base.load(fromByteOffset: $0, as: UInt8.self) }
    #expect(seen == [2, 0, 1])
    #expect(fixture.platform.mappedPages(of: DomainID(5)) == 3)
}

@Test(arguments: [
    ([13], 5, true, "notGranted"), ([9, 11], 5, true, "otherDomain"), ([9, 10], 5, true, "readOnly"),
    ([12], 5, false, "frameBeyondMemory"), ([9, 64], 5, true, "referenceBeyondTable"), ([9], 6, true, "noSuchDomain"),
])
func everyRefusalOfAMapHasItsName(
    _ references: [UInt32], _ domain: UInt16, _ writable: Bool, _ name: String
) throws {
    let fixture = try Fixture()
    fixture.grant(9)
    fixture.grant(10, readOnly: true)
    fixture.grant(11, to: 3)
    fixture.grant(12, frame: 64)
    let fault = #expect(throws: Fault.self) {
        _ = try fixture.table.map(
            references.map { GrantReference($0) }, of: DomainID(domain), writable: writable)
    }
    #expect(fault?.operation.hasSuffix(name) == true)
    #expect(fixture.platform.mappedPages(of: DomainID(5)) == 0)
    #expect(fixture.guest.grants.end(GrantReference(9)), "a failed map must leave nothing mapped")
}

@Test func aMappedGrantCannotBeRevoked() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    let entry = try unsafe #require(fixture.guest.grantEntry(GrantReference(9)))
    func flags() -> UInt16 { unsafe entry.load(as: UInt16.self) }
    func twice() throws {
        let first = try fixture.table.map([GrantReference(9)], of: DomainID(5), writable: true)
        do {
            let second = try fixture.table.map([GrantReference(9)], of: DomainID(5), writable: false)
            #expect(flags() == 1 | 8 | 16)
            #expect(!fixture.guest.grants.end(GrantReference(9)))
            _ = consume second
        }
        #expect(flags() == 1 | 8 | 16)
        _ = consume first
    }
    try twice()
    #expect(flags() == 1)
    #expect(fixture.guest.grants.end(GrantReference(9)))
    #expect(fixture.copy(9).status == -1)
}

@Test func aReadOnlyMapSetsReadingOnly() throws {
    let fixture = try Fixture()
    fixture.grant(9, readOnly: true)
    let mapping = try fixture.table.map([GrantReference(9)], of: DomainID(5), writable: false)
    let entry = try unsafe #require(fixture.guest.grantEntry(GrantReference(9)))
    #expect(unsafe entry.load(as: UInt16.self) == 1 | 4 | 8)
    _ = consume mapping
}

@Test func whatAHandleMappedEndsWithIt() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 64, references: 64)
    guest.grants.grant(9, frame: 1, to: DomainID(0), readOnly: false)
    do {
        let mapping = try platform.openGrantTable().map([GrantReference(9)], of: DomainID(5), writable: true)
        #expect(platform.mappedPages(of: DomainID(5)) == 1)
        _ = consume mapping
    }
    #expect(platform.mappedPages(of: DomainID(5)) == 0)
}

@Test func aDestroyedDomainGrantsNothing() throws {
    let fixture = try Fixture()
    fixture.grant(9)
    let mapping = try fixture.table.map([GrantReference(9)], of: DomainID(5), writable: false)
    #expect(fixture.copy(9).status == 0)
    fixture.platform.destroyDomain(DomainID(5))
    #expect(fixture.copy(9).status == -2)
    #expect(unsafe mapping.base.load(as: UInt8.self) == 0x11, "what is mapped stays readable")
    let reborn = try fixture.platform.createDomain(DomainID(5), pages: 16, references: 32)
    reborn.grants.grant(9, frame: 2, to: DomainID(0), readOnly: false)
    #expect(fixture.copy(9) == (0, 0))
    _ = consume mapping
}

@Test func aGrantThatIsBeingCopiedCannotBeRevoked() throws {
    let memory = try DomainMemory(.init(pages: 16, references: 64))
    let grants = GuestGrants(memory)
    for reference in 8..<12 as Range<UInt32> { grants.grant(reference, frame: 1, to: DomainID(0), readOnly: true) }
    _ = memory.records.claim()
    let number = try #require(memory.records.claim())
    let record = memory.records.record(number)
    record.set(0, 9)
    record.set(1, 11)
    record.publish(2)
    var endings = [8, 9, 10, 11].map { GuestGrants.Ending($0) }
    #expect(unsafe grants.end(&endings, count: 4) == 2)
    #expect(endings.map(\.isInUse) == [false, true, false, true])
    #expect((8..<12).map { memory.view.entry($0).flags } == [0, 5, 0, 5], "what is in use stays granted")
    record.clear()
    #expect(grants.end(GrantReference(9)))
    record.publish(2)
    memory.records.release(number)
    #expect(grants.end(GrantReference(11)), "a dead copier's record says nothing")
}

@Test func recordsRunOutAndComeBack() throws {
    let memory = try DomainMemory(.init(pages: 16, references: 64))
    #expect((0..<64).map { _ in memory.records.claim() } == Array(0..<64))
    #expect(memory.records.claim() == nil)
    memory.records.release(17)
    #expect(memory.records.claim() == 17)
}

@Test func rangesOfFramesAreReused() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 11, references: 16)
    let first = try guest.allocateFrames(4)
    let second = try guest.allocateFrames(6)
    #expect(throws: Fault.self) { try guest.allocateFrames(1) }
    guest.freeFrames(second, 6)
    guest.freeFrames(first, 4)
    #expect(try guest.allocateFrames(10) == first)
}
