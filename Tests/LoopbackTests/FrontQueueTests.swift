import CXen
import Descriptors
import Loopback
import SharedRing
import Testing
import XenWire

/// A frontend's queue in domain 5 and the other end of its ring, answered by hand.
private final class Fixture {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let table: any GrantTable
    let mapping: GrantMapping
    let abi: BlockABI
    let firstReference: GrantReference
    var back: BackRing
    var front: FrontQueue

    init(
        _ abi: BlockABI = .native, options: FrontQueueOptions = FrontQueueOptions(slots: 4), index: UInt32 = 0
    ) throws {
        let guest = try platform.createDomain(DomainID(5), pages: 20_000, references: 16_000)
        let table = platform.openGrantTable()
        let setup = try FrontRingSetup(
            pages: 1, abi: abi, domain: guest, backend: DomainID(0), startingAt: index)
        let references = setup.references
        let mapping = try table.map(references, of: DomainID(5), writable: true)
        unsafe back = BackRing(
            base: mapping.base, entries: setup.entries, entrySize: abi.entrySize, startingAt: index)
        front = try FrontQueue(setup, backend: DomainID(0), domain: guest, options: options)
        self.abi = abi
        self.guest = guest
        self.table = table
        self.mapping = consume mapping
        firstReference = GrantReference(references[0].rawValue + 1)
    }

    func submit(_ operation: BlockOperation, sectors: UInt32 = 8) throws {
        let slot = front.takeSlot()
        front.submit(try #require(slot), operation, sector: 1000, sectors: sectors, at: 77)
        front.publish()
    }

    /// Takes a request as a backend does.
    func takeRequest() throws -> Request {
        let waiting = back.waiting()
        try #require(waiting ?? 0 > 0)
        let copy = UnsafeMutableRawPointer.allocate(byteCount: 112, alignment: 8)
        defer { unsafe copy.deallocate() }
        unsafe abi.takeRequest(from: back.takeSlot(), into: copy)
        let limits = RequestLimits(indirectSegments: 4096, offersBarrier: true, offersDiscard: true)
        let head = unsafe try BlockRequest.decode(copy, within: limits)
        let words = (0..<28).map { unsafe copy.load(fromByteOffset: $0 * 4, as: UInt32.self) }
        return Request(head: head, words: words)
    }

    struct Request {
        let head: BlockRequest
        /// The request in the native layout.
        let words: [UInt32]
    }

    func answer(
        _ identifier: UInt64, _ operation: UInt8, _ status: Int16 = 0, padding: UInt8 = 0
    ) {
        let slot = unsafe back.responseSlot()
        unsafe abi.putResponse(into: slot, identifier: identifier, operation: operation, status: .okay)
        unsafe slot.storeBytes(of: status, toByteOffset: 10, as: Int16.self)
        unsafe slot.storeBytes(of: padding, toByteOffset: 9, as: UInt8.self)
        _ = back.publish()
    }

    func answerNext() throws {
        let request = try takeRequest()
        answer(request.head.identifier, request.head.operation.rawValue)
    }

    /// What `reap` says.
    func misbehaviour() -> BackendMisbehaviour? {
        do {
            _ = try front.reap()
            return nil
        } catch {
            return error
        }
    }
}

@Test(arguments: BlockABI.allCases, [BlockOperation.read, .write, .barrier])
func dataRequestsCarryTheirSegments(_ abi: BlockABI, _ operation: BlockOperation) throws {
    let fixture = try Fixture(abi)
    try fixture.submit(operation, sectors: 19)
    let request = try fixture.takeRequest()
    #expect(request.head.operation == operation)
    #expect(request.head.sector == 1000)
    #expect(request.head.segmentCount == 3)
    let first = fixture.firstReference.rawValue
    #expect(request.words[6..<12] == [first, 7 << 8, first + 1, 7 << 8, first + 2, 2 << 8])
    let entry = try unsafe #require(fixture.guest.grantEntry(fixture.firstReference))
    #expect(
        unsafe entry.load(as: UInt16.self) == (operation == .read ? 1 : 5), "pages to be written from are read-only")
    fixture.answer(request.head.identifier, operation.rawValue)
    #expect(try fixture.front.reap() == 1)
    let completion = fixture.front.completion(0)
    #expect(completion.operation == operation)
    #expect(completion.status == .okay)
    #expect(completion.sectors == 19)
    #expect(completion.submitted == 77)
    #expect(unsafe entry.load(as: UInt16.self) == 0, "revoked when answered")
    #expect(fixture.front.inFlight == 0)
}

@Test(arguments: BlockABI.allCases)
func flushesAndDiscardsCarryNone(_ abi: BlockABI) throws {
    let fixture = try Fixture(abi)
    try fixture.submit(.flush, sectors: 0)
    #expect(try fixture.takeRequest().head.segmentCount == 0)
    try fixture.submit(.discard, sectors: 70_000)
    let discard = try fixture.takeRequest().head
    #expect(discard.operation == .discard)
    #expect(discard.discardSectors == 70_000)
}

@Test(arguments: BlockABI.allCases)
func largeRequestsAreIndirect(_ abi: BlockABI) throws {
    let fixture = try Fixture(abi, options: FrontQueueOptions(slots: 2, segments: 600))
    _ = fixture.front.takeSlot()
    try fixture.submit(.write, sectors: 600 * 8 - 1)
    let request = try fixture.takeRequest()
    #expect(request.head.isIndirect)
    #expect(request.head.operation == .write)
    #expect(request.head.segmentCount == 600)
    let pages = request.words[7..<9].map { GrantReference($0) }
    let table = try fixture.table.map(Array(pages), of: DomainID(5), writable: false)
    let last = unsafe table.base.load(fromByteOffset: 599 * 8, as: UInt64.self)
    #expect(UInt32(truncatingIfNeeded: last) == pages[0].rawValue - 1)
    #expect(last >> 32 == 6 << 8)
    fixture.answer(request.head.identifier, 1)
    #expect(fixture.misbehaviour() == .grantInUse(pages[0]), "the indirect pages are still mapped")
    _ = consume table
}

@Test func aBackendThatMisbehavesIsFoundOut() throws {
    for (expected, act) in misbehaviours {
        let fixture = try Fixture()
        try fixture.submit(.read)
        let id = try fixture.takeRequest().head.identifier
        act(fixture, id)
        #expect(fixture.misbehaviour() == expected(id))
    }
}

private let misbehaviours: [(@Sendable (UInt64) -> BackendMisbehaviour?, @Sendable (Fixture, UInt64) -> Void)] = [
    ({ _ in nil }, { $0.answer($1, 0) }),
    ({ _ in nil }, { $0.answer($1, 0, -1) }),
    ({ .unknownIdentifier($0 | 4) }, { $0.answer($1 | 4, 0) }),
    ({ .unknownIdentifier($0 + 1 << 16) }, { $0.answer($1 + 1 << 16, 0) }),
    ({ .unknownIdentifier($0 & 0xffff) }, { $0.answer($1 & 0xffff, 0) }),
    ({ _ in .wrongOperation(asked: 0, answered: 1) }, { $0.answer($1, 1) }),
    ({ _ in .wrongOperation(asked: 0, answered: 6) }, { $0.answer($1, 6) }),
    ({ _ in .unknownStatus(-3) }, { $0.answer($1, 0, -3) }),
    ({ _ in .unknownStatus(1) }, { $0.answer($1, 0, 1) }),
    ({ _ in .dirtyPadding }, { $0.answer($1, 0, padding: 0x20) }),
    (
        { _ in .responseOverrun },
        {
            $0.answer($1, 0)
            $0.answer($1, 0)
        }
    ),
]

@Test func anIdentifierIsAnsweredOnce() throws {
    let fixture = try Fixture()
    try fixture.submit(.read)
    try fixture.submit(.read)
    let id = try fixture.takeRequest().head.identifier
    fixture.answer(id, 0)
    fixture.answer(id, 0)
    #expect(fixture.misbehaviour() == .duplicateIdentifier(id))
}

@Test func aPageMustBeLetGoBeforeTheAnswer() throws {
    let fixture = try Fixture()
    try fixture.submit(.read)
    let request = try fixture.takeRequest()
    let mapping = try fixture.table.map([fixture.firstReference], of: DomainID(5), writable: true)
    fixture.answer(request.head.identifier, 0)
    #expect(fixture.misbehaviour() == .grantInUse(fixture.firstReference))
    _ = consume mapping
}

@Test func longLivedGrantsMayStayMapped() throws {
    let fixture = try Fixture(options: FrontQueueOptions(slots: 4, grantsPerRequest: false))
    let mapping = try fixture.table.map([fixture.firstReference], of: DomainID(5), writable: true)
    try fixture.submit(.read)
    try fixture.answerNext()
    #expect(fixture.misbehaviour() == nil)
    _ = consume mapping
}

@Test func indicesWrap() throws {
    let fixture = try Fixture(index: .max - 3)
    for _ in 0..<20 {
        while fixture.front.freeSlots > 0 { try fixture.submit(.read) }
        for _ in 0..<4 { try fixture.answerNext() }
        #expect(try fixture.front.reap() == 4)
    }
}

@Test func aRingThatStaysMappedIsReported() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 1000, references: 1000)
    func closed(mapped: Bool) throws -> BackendMisbehaviour? {
        let setup = try FrontRingSetup(pages: 2, abi: .native, domain: guest, backend: DomainID(0))
        let references = setup.references
        let mapping = mapped ? try platform.openGrantTable().map(references, of: DomainID(5), writable: true) : nil
        let front = try FrontQueue(setup, backend: DomainID(0), domain: guest, options: FrontQueueOptions(slots: 8))
        do {
            try front.close()
        } catch {
            #expect(error == .ringInUse(references[0]))
            _ = consume mapping
            return error
        }
        _ = consume mapping
        return nil
    }
    let (clean, dirty) = try (closed(mapped: false), closed(mapped: true))
    #expect(clean == nil)
    #expect(dirty != nil)
}
