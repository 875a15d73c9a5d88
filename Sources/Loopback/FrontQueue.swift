internal import CXen
public import Descriptors
internal import SharedRing
public import XenWire

/// What a frontend knows of a queue before it may use it: the ring and the event channel, to be written to xenstore.
public struct FrontRingSetup: ~Copyable {
    let pages: GrantedFrames
    let ring: FrontRing
    /// The frontend's end of the event channel.
    public let port: GuestPort
    let abi: BlockABI

    /// Allocates and grants a ring of `pages` pages and opens a port for `backend`.
    ///
    /// - Parameter index: where the ring's indices start.
    public init(
        pages count: UInt32, abi: BlockABI, domain: GuestDomain, backend: DomainID, startingAt index: UInt32 = 0
    ) throws(Fault) {
        let port = try domain.openPort(for: backend)
        let pages = try GrantedFrames(count, in: domain)
        // The backend may map it as soon as it is granted, so it is a ring before that. Its pages live as long as
        // `pages`, which goes with the ring.
        unsafe pages.base.initializeMemory(as: UInt8.self, repeating: 0, count: Int(count) * Int(XEN_PAGE_SIZE_BYTES))
        unsafe ring = FrontRing(
            initialising: pages.base, entries: abi.entries(pages: Int(count)), entrySize: abi.entrySize,
            startingAt: index)
        pages.grantAll(to: backend)
        self.pages = pages
        self.port = port
        self.abi = abi
    }

    /// The ring's grant references, in the order of its pages.
    public var references: [GrantReference] { (0..<pages.count).map { GrantReference(pages.firstReference &+ $0) } }

    /// Requests that fit.
    public var entries: UInt32 { ring.size }
}

/// How a frontend uses its ring.
public struct FrontQueueOptions: Sendable {
    /// Requests in flight; at most the ring's entries are used.
    public var slots: UInt16
    /// Segments of 4,096 bytes that one request can have; above 11 requests are indirect.
    public var segments: UInt16
    /// Pages are granted for each request and revoked when it is answered, as blkfront does without persistent grants.
    /// Otherwise they stay granted, which hides a backend that answers before it has let go.
    public var grantsPerRequest: Bool

    /// All options.
    public init(slots: UInt16 = 32, segments: UInt16 = 11, grantsPerRequest: Bool = true) {
        self.slots = slots
        self.segments = segments
        self.grantsPerRequest = grantsPerRequest
    }
}

/// An answered request.
public struct FrontCompletion: Sendable {
    /// The slot it used; its buffer holds what was read until the slot is used again.
    public var slot: UInt16
    public var operation: BlockOperation
    public var status: BlockStatus
    public var sector: UInt64
    /// Sectors read, written or discarded.
    public var sectors: UInt32
    /// The time that was given to `submit`.
    public var submitted: UInt64
}

/// A request in flight.
struct FrontSlot: BitwiseCopyable {
    var identifier: UInt64 = 0
    var sector: UInt64 = 0
    var submitted: UInt64 = 0
    var sectors: UInt32 = 0
    var segments: UInt16 = 0
    var operation = BlockOperation.read
    var isInFlight = false
}

/// A frontend's queue: the loopback counterpart of a blkfront ring, with all of blkfront's checks.
///
/// A plain struct for one thread. Per request there is no class, closure or allocation; a caller owns it the same way.
@safe public struct FrontQueue: ~Copyable {
    /// The frontend's end of the event channel.
    public let port: GuestPort
    private let ringPages: GrantedFrames
    private let data: GrantedFrames
    private let grants: GuestGrants
    private let backend: DomainID
    private let abi: BlockABI
    private let options: FrontQueueOptions
    /// Pages of one slot: its segments', then those of its indirect segment table.
    private let pagesPerSlot: UInt32
    private let slots: FixedTable<FrontSlot>
    private let completions: FixedTable<UInt16>
    private let statuses: FixedTable<BlockStatus>
    private let endings: FixedTable<GuestGrants.Ending>
    private var free: FreeList
    private var ring: FrontRing
    private var generation: UInt64 = 0
    /// Notifications sent.
    public private(set) var notifications: UInt64 = 0

    /// Takes over a ring and adds the memory that requests use.
    public init(
        _ setup: consuming FrontRingSetup, backend: DomainID, domain: GuestDomain, options: FrontQueueOptions
    ) throws(Fault) {
        let slots = min(options.slots, UInt16(clamping: setup.entries))
        let segments = UInt32(min(options.segments, SegmentLimit.indirect))
        let indirectPages = segments <= UInt32(SegmentLimit.direct) ? 0 : (segments + 511) / 512
        let data = try GrantedFrames(UInt32(slots) * (segments + indirectPages), in: domain)
        if !options.grantsPerRequest { data.grantAll(to: backend) }
        pagesPerSlot = segments + indirectPages
        self.slots = FixedTable(repeating: FrontSlot(), count: Int(slots))
        completions = FixedTable(repeating: 0, count: Int(slots))
        statuses = FixedTable(repeating: .okay, count: Int(slots))
        endings = FixedTable(repeating: GuestGrants.Ending(0), count: Int(data.count))
        free = FreeList(count: slots)
        self.data = data
        grants = domain.grants
        abi = setup.abi
        port = setup.port
        ring = setup.ring
        ringPages = setup.pages
        self.backend = backend
        self.options = options
    }

    /// Requests that can be submitted now.
    public var freeSlots: Int { @_noLocks get { free.count } }
    /// Requests submitted and not answered.
    public var inFlight: Int { @_noLocks get { slots.count &- free.count } }
    /// Requests that can be in flight.
    public var capacity: Int { @_noLocks get { slots.count } }

    /// The private memory of a slot: `segments` pages.
    @_noLocks public func buffer(_ slot: UInt16) -> UnsafeMutableRawPointer {
        precondition(Int(slot) < slots.count)
        return unsafe data.base + Int(slot) * Int(pagesPerSlot) << Int(XEN_PAGE_SHIFT_BITS)
    }

    /// The slot that the next `submit` uses; nil if none is free.
    @_noLocks public mutating func takeSlot() -> UInt16? { free.pop() }

    /// Gives back a slot that was taken and not submitted.
    @_noLocks public mutating func returnSlot(_ slot: UInt16) { free.push(slot) }

    /// Puts a request for `sectors` sectors from `sector` on the ring, unpublished.
    ///
    /// - Parameters:
    ///   - slot: from `takeSlot`; for a write its buffer holds the data. There are no more slots than ring entries.
    ///   - sectors: at most 8 per segment; flush carries none, discard any number.
    @_noLocks @inline(__always)
    public mutating func submit(
        _ slot: UInt16, _ operation: BlockOperation, sector: UInt64, sectors: UInt32, at time: UInt64
    ) {
        let carriesData = operation != .flush && operation != .discard
        let segments = carriesData ? UInt16(truncatingIfNeeded: (sectors &+ 7) / 8) : 0
        precondition(segments <= options.segments && Int(slot) < slots.count)
        generation &+= 1
        let identifier = UInt64(slot) | generation << 16
        // In range, by the precondition.
        unsafe slots.element(Int(slot)).pointee = FrontSlot(
            identifier: identifier, sector: sector, submitted: time, sectors: sectors, segments: segments,
            operation: operation, isInFlight: true)
        let request = unsafe ring.requestSlot()
        // A slot has 108 bytes or more; everything below is within the first 112 or 108 (blkif.h). Entries of the
        // x86_32 ring are aligned to four bytes, hence the unaligned stores.
        let body = unsafe request + (abi == .native ? 8 : 4)
        unsafe body.storeBytes(of: identifier, as: UInt64.self)
        unsafe body.storeBytes(of: sector, toByteOffset: 8, as: UInt64.self)
        if segments > SegmentLimit.direct {
            unsafe putIndirect(request, body, slot, operation, segments, sectors)
        } else {
            unsafe request.storeBytes(of: UInt32(operation.rawValue) | UInt32(segments) << 8, as: UInt32.self)
            if segments == 1 {
                unsafe putSegment(body + 16, UInt32(slot) &* pagesPerSlot, sectors, readOnly: operation != .read)
            } else if operation == .discard {
                unsafe body.storeBytes(of: UInt64(sectors), toByteOffset: 16, as: UInt64.self)
            } else {
                unsafe putSegments(body + 16, slot, segments, sectors, readOnly: operation != .read)
            }
        }
    }

    /// Makes the submitted requests visible and notifies the backend if it asked for that.
    public mutating func publish() {
        guard ring.publish() else { return }
        notifications &+= 1
        port.channel.notify()
    }

    /// Takes all responses there are and returns how many; `completion` describes them.
    ///
    /// Their slots are free again, but keep their contents until they are taken.
    @_noLocks
    public mutating func reap() throws(BackendMisbehaviour) -> Int {
        guard let waiting = ring.waiting() else { throw .responseOverrun }
        var done = 0
        var pages = 0
        while done < Int(waiting) {
            let slot = try settle(done)
            // Every slot is in flight at most once, so there are at most as many as the tables have entries.
            unsafe completions.element(done).pointee = slot
            pages = noteEndings(slot, pages)
            done &+= 1
        }
        if pages > 0 { try endGrants(pages) }
        var index = 0
        while index < done {
            unsafe free.push(completions.element(index).pointee)
            index &+= 1
        }
        return done
    }

    /// The `index`-th of the responses that the last `reap` took.
    @_noLocks @inline(__always) public func completion(_ index: Int) -> FrontCompletion {
        precondition(index >= 0 && index < slots.count)
        // In range, by the line above; `reap` put slot numbers there.
        let number = unsafe completions.element(index).pointee
        let slot = unsafe slots.element(Int(number))
        return unsafe FrontCompletion(
            slot: number, operation: slot.pointee.operation, status: statuses.element(index).pointee,
            sector: slot.pointee.sector, sectors: slot.pointee.sectors, submitted: slot.pointee.submitted)
    }

    /// Asks for an event at the next response: true if the frontend may wait for it.
    @_noLocks public func arm() -> Bool { ring.arm() }

    /// Ends everything, after the backend has closed.
    public consuming func close() throws(BackendMisbehaviour) {
        if let reference = ringPages.endAll() { throw .ringInUse(reference) }
        if let reference = data.endAll() { throw .grantInUse(reference) }
    }

    // ---- Requests

    @_noLocks @inline(never)
    private mutating func putSegments(
        _ table: UnsafeMutableRawPointer, _ slot: UInt16, _ segments: UInt16, _ sectors: UInt32, readOnly: Bool
    ) {
        let first = UInt32(slot) &* pagesPerSlot
        var left = sectors
        var index: UInt32 = 0
        while index < UInt32(segments) {
            let length = left < 8 ? left : 8
            unsafe putSegment(table + Int(index) << 3, first &+ index, length, readOnly: readOnly)
            left &-= length
            index &+= 1
        }
    }

    /// Grants a page of `sectors` sectors, at most 8, and writes its segment.
    @_noLocks @inline(__always)
    private mutating func putSegment(
        _ entry: UnsafeMutableRawPointer, _ page: UInt32, _ sectors: UInt32, readOnly: Bool
    ) {
        grant(page, readOnly: readOnly)
        // gref, first_sect 0, last_sect, padding: struct blkif_request_segment in one store, within the caller's table.
        let segment = UInt64(data.firstReference &+ page) | UInt64(sectors &- 1) << 40
        unsafe entry.storeBytes(of: segment, as: UInt64.self)
    }

    @_noLocks @inline(never)
    private mutating func putIndirect(
        _ request: UnsafeMutableRawPointer, _ body: UnsafeMutableRawPointer, _ slot: UInt16,
        _ operation: BlockOperation, _ segments: UInt16, _ sectors: UInt32
    ) {
        let head = 6 | UInt32(operation.rawValue) << 8 | UInt32(segments) << 16
        unsafe request.storeBytes(of: head, as: UInt32.self)
        unsafe body.storeBytes(of: 0, toByteOffset: 16, as: UInt32.self)
        let table = unsafe buffer(slot) + Int(options.segments) << Int(XEN_PAGE_SHIFT_BITS)
        unsafe putSegments(table, slot, segments, sectors, readOnly: operation != .read)
        let first = UInt32(slot) &* pagesPerSlot &+ UInt32(options.segments)
        var index: UInt32 = 0
        while index < (UInt32(segments) &+ 511) / 512 {
            grant(first &+ index, readOnly: true)
            let reference = data.firstReference &+ first &+ index
            unsafe body.storeBytes(of: reference, toByteOffset: 20 &+ Int(index) << 2, as: UInt32.self)
            index &+= 1
        }
    }

    @_noLocks
    private mutating func grant(_ page: UInt32, readOnly: Bool) {
        guard options.grantsPerRequest else { return }
        grants.grant(
            data.firstReference &+ page, frame: data.firstFrame &+ page, to: backend, readOnly: readOnly)
    }

    // ---- Responses

    /// Takes one response, checks it against its request, and returns the slot.
    @_noLocks @inline(__always)
    private mutating func settle(_ index: Int) throws(BackendMisbehaviour) -> UInt16 {
        // Copied out once: a backend may be as hostile as a guest (XSA-391). 12 or 16 bytes of a slot of 108 or 112.
        let response = unsafe ring.takeSlot()
        let identifier = unsafe response.loadUnaligned(as: UInt64.self)
        let tail = unsafe response.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
        let padding = unsafe abi == .native ? response.load(fromByteOffset: 12, as: UInt32.self) : 0
        let number = Int(identifier & 0xffff)
        guard number < slots.count else { throw .unknownIdentifier(identifier) }
        // In range, by the line above.
        let slot = unsafe slots.element(number)
        guard unsafe slot.pointee.isInFlight, unsafe slot.pointee.identifier == identifier else {
            throw identifier >> 16 <= generation && identifier >> 16 > 0
                ? .duplicateIdentifier(identifier) : .unknownIdentifier(identifier)
        }
        let operation = UInt8(truncatingIfNeeded: tail)
        guard unsafe operation == slot.pointee.operation.rawValue else {
            throw unsafe .wrongOperation(asked: slot.pointee.operation.rawValue, answered: operation)
        }
        guard tail & 0xff00 == 0, padding == 0 else { throw .dirtyPadding }
        let status = try Self.status(Int16(truncatingIfNeeded: Int32(bitPattern: tail) >> 16))
        unsafe slot.pointee.isInFlight = false
        unsafe statuses.element(index).pointee = status
        return UInt16(truncatingIfNeeded: number)
    }

    @_noLocks @inline(__always)
    private static func status(_ number: Int16) throws(BackendMisbehaviour) -> BlockStatus {
        if number == 0 { return .okay }
        guard let status = BlockStatus(rawValue: number) else { throw .unknownStatus(number) }
        return status
    }

    /// Adds a slot's pages to those whose grants are to be ended; `pages` are there already.
    @_noLocks @inline(__always)
    private mutating func noteEndings(_ slot: UInt16, _ pages: Int) -> Int {
        guard options.grantsPerRequest else { return pages }
        // The table has a place for every page of every slot.
        let segments = unsafe UInt32(slots.element(Int(slot)).pointee.segments)
        let first = data.firstReference &+ UInt32(slot) &* pagesPerSlot
        var count = pages
        var index: UInt32 = 0
        while index < segments {
            unsafe endings.element(count).pointee = GuestGrants.Ending(first &+ index)
            count &+= 1
            index &+= 1
        }
        guard segments > UInt32(SegmentLimit.direct) else { return count }
        index = 0
        while index < (segments &+ 511) / 512 {
            unsafe endings.element(count).pointee = GuestGrants.Ending(first &+ UInt32(options.segments) &+ index)
            count &+= 1
            index &+= 1
        }
        return count
    }

    @_noLocks
    private mutating func endGrants(_ count: Int) throws(BackendMisbehaviour) {
        // `count` entries were filled by noteEndings.
        guard unsafe grants.end(endings.pointer, count: count) > 0 else { return }
        var index = 0
        while index < count {
            if endings[index].isInUse { throw .grantInUse(GrantReference(endings[index].reference)) }
            index &+= 1
        }
    }
}
