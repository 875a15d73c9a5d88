internal import CXen
public import Descriptors
internal import Glibc
public import SharedRing
public import Telemetry
public import Uring
internal import XenWire

/// One queue of a virtual disk: a ring, its grants, its event channel and its I/O, served by steps that never block.
///
/// Owned by one thread, and no step calls back into the queue: that is why access to the state, one noncopyable struct,
/// need not be checked for exclusivity at run time.
public final class Queue {
    @exclusivity(unchecked) private var core: QueueCore
    /// The counters, readable from any thread.
    public let cells: Cells

    /// Maps the ring and makes the queue's tables. Nothing is taken from the ring yet.
    ///
    /// - Parameter control: an eventfd that is signalled when another thread has something for the queue; it outlives
    ///   the queue.
    /// - Throws: a fault that names what could not be had: a grant reference, memory.
    public init(
        _ configuration: QueueConfiguration, grants: any GrantTable, channel: any EventChannel, engine: any Engine,
        clock: any Clock, shared: DeviceShared, control: Int32
    ) throws(Fault) {
        cells = Cells(count: CellLayout.count)
        // All that can fail comes first: Swift 6.3 frees garbage when a noncopyable value is given up half made.
        let pages = configuration.ringReferences.count
        let entries = configuration.abi.entries(pages: pages)
        guard entries > 0, entries <= 1024 else { throw Fault("a ring of \(pages) pages", errno: EINVAL) }
        let mapping = try grants.map(configuration.ringReferences, of: configuration.domain, writable: true)
        let pool = try BufferPool(ceiling: configuration.bufferCeiling, reserved: Int(entries))
        let start = try Self.start(configuration, mapping, entries)
        let mailbox = try DiscardMailbox(wakeup: control, capacity: QueueCore.parts(entries))
        shared.claims.attach(configuration.index, wakeup: control)
        unsafe core = QueueCore(
            configuration, entries, mapping, pool, start, grants: grants, channel: channel, engine: engine,
            clock: clock, shared: shared, mailbox: mailbox, counters: cells.writer)
        // Whoever served the ring before may have been killed between an answer and its event.
        if configuration.recovers { channel.notify() }
    }

    /// Where the ring is taken up: what is in flight on it, and `rsp_prod`.
    private static func start(
        _ configuration: QueueConfiguration, _ mapping: borrowing GrantMapping, _ entries: UInt32
    ) throws(Fault) -> RingStart {
        let (count, abi) = (UInt16(entries), configuration.abi.rawValue)
        // The mapping has the ring's pages.
        let published = unsafe xen_load_acquire(mapping.base + Int(XEN_RING_RSP_PROD))
        guard configuration.recovers, let journal = configuration.journal, !InFlightTable.isMissing(in: journal) else {
            let first = configuration.firstIndex ?? published
            return RingStart(
                InFlightTable(entries: count, abi: abi, startingAt: first, in: configuration.journal), first)
        }
        do throws(JournalRefusal) {
            return RingStart(
                try InFlightTable(recovering: journal, entries: count, abi: abi, published: published), published)
        } catch {
            throw Fault("\(configuration.name): \(error)", errno: EPROTO)
        }
    }

    /// Does one turn: ends what has completed, publishes, takes a chunk of requests, submits. True if it did anything.
    public func turn() -> Bool { unsafe core.turn() }

    /// Asks the frontend for an event and looks once more; true if the caller may sleep.
    public func arm() -> Bool { unsafe core.arm() }

    /// Takes no more requests from now on, and gives up discards that are under way.
    public func beginStop() { unsafe core.beginStop() }

    /// Nothing is under way. After a turn that did nothing, the volume and the guest's pages are not touched any more.
    public var isDrained: Bool { unsafe core.isDrained }

    /// Exactly one operation is with the volume: the guest waits for nothing else.
    var awaitsOneAnswer: Bool { unsafe core.underWay == 1 }

    /// Gives up what could not be ended. The last call.
    public func abandon() { unsafe core.claims.leave(core.claimant) }

    /// How the queue is doing.
    public var condition: QueueCondition { unsafe core.condition }

    /// The device cannot be served.
    func fail(_ fault: Fault) { unsafe core.become(.failed(fault)) }

    /// Tells the control thread that there is something to see.
    func callForAttention() { unsafe core.shared.callForAttention() }

    /// How often `condition` has changed.
    var conditionChanges: UInt32 { unsafe core.conditionChanges }

    /// Tries writes again that were held because the volume was full.
    public func retryHeldWrites() { unsafe core.retryHeldWrites() }

    /// Counts a sleep.
    func noteSleep() { unsafe core.count(.sleeps) }

    /// Counts a pause with the event channel masked.
    func noteRest() { unsafe core.count(.throttledEvents) }

    /// Counts an event from the frontend.
    func noteEvent() { unsafe core.count(.notificationsReceived) }

    /// Gives buffer memory back to the system if nothing is in flight.
    public func trim() { unsafe core.trim() }
}

/// What a queue begins with: on a fresh ring nothing, on one that was served before what is left of it.
struct RingStart: ~Copyable {
    private(set) var inFlight: InFlightTable
    /// `rsp_prod`.
    let published: UInt32

    init(_ inFlight: consuming InFlightTable, _ published: UInt32) {
        self.inFlight = inFlight
        self.published = published
    }

    mutating func backlog(isShared: Bool) -> Backlog {
        let entries = inFlight.backlog()
        var issued = 0
        for entry in entries where inFlight.isIssued(entry) { issued += 1 }
        return Backlog(entries, issued: issued, isShared: isShared)
    }

    consuming func takeTable() -> InFlightTable { inFlight }
}

/// The state of a queue.
///
/// Methods on the way of a request are mutating even if they change nothing: Swift 6.3 copies the whole struct before one that
/// is not is called, out of line, by one that is (the gate hot-symbols looks for that).
struct QueueCore: ~Copyable {
    // The platform, called once per chunk.
    let grants: any GrantTable
    let channel: any EventChannel
    let engine: any Engine
    let clock: any Clock
    let shared: DeviceShared
    /// Keeps the ring's pages mapped.
    let mapping: GrantMapping

    // What was negotiated.
    let domain: DomainID
    let abi: BlockABI
    let limits: RequestLimits
    let discardRules: DiscardRules
    /// `volumeBlock` - 1.
    let blockMask: UInt64
    /// Sectors that a page request's position and length must be multiples of, minus 1.
    let pageMask: UInt64
    /// Operations below this take the short way of page requests: none while there is no memory for it, then reads, and
    /// writes where they are allowed.
    var pageOperations: UInt16 = 0
    let pausesWhenFull: Bool
    /// The volume does nothing: operations are over when they would be submitted.
    let isNull: Bool

    // Requests in flight, by one index: the copy, the slot.
    var ring: BackRing
    var inFlight: InFlightTable
    let slots: FixedTable<Slot>
    /// Requests that wait for a part or for buffer memory.
    var stalled: IndexQueue

    // Parts of general requests, by their own index.
    let parts: FixedTable<Part>
    var freeParts: FreeList
    /// Writes that wait for room on the volume.
    var held: IndexQueue
    /// Parts and tables whose data has arrived from the guest.
    var arrived: IndexQueue

    var pool: BufferPool
    /// By slab: its own number when the engine knows it, else `IOOperation.unregistered`.
    let slabTags: FixedTable<UInt16>
    /// Pages in segment tables, which may use half the pool, so that there is always room for data.
    var tablePages = 0

    var inbound = CopyBatch()
    var outbound = CopyBatch()
    /// Parts among the owners in `outbound`.
    var outboundParts = 0
    let operations: FixedTable<IOOperation>
    var operationCount = 0
    let completions: FixedTable<IOCompletion>

    /// Operations that were handed to the engine and have not come back.
    var underWay = 0
    /// Of those, how many the last submission brought that may have been answered within it: from the page cache.
    var justSubmitted = 0
    var laziness = Laziness()

    // Discards.
    let mailbox: DiscardMailbox
    var discardsUnderWay = 0
    var waitingDiscards: IndexQueue

    // Sectors that requests in flight change, by the requests' index.
    let claims: WriteClaims
    let claimant: Int
    let claimed: FixedTable<ClaimedExtent>
    var claimsHeld = 0

    // What an earlier process left unanswered.
    let journal: Journal?
    var backlog: Backlog

    /// 512-byte sectors of the device, as of this turn.
    var capacity: UInt64 = 0
    /// Where a page request may begin: below this.
    var pageCapacity: UInt64 = 0
    /// Time of this turn, nanoseconds.
    var now: UInt64 = 0
    var chunk: ChunkPolicy
    /// `req_prod` when the queue last made a call that may let the guest run (a notification), and whether it has
    /// computed ever since.
    var seenProducer: UInt32
    var isWatching = false
    var stopping = false
    var condition = QueueCondition.running
    var conditionChanges: UInt32 = 0
    let counters: CellWriter
    /// What was answered lately and not yet counted.
    var recent = Recent()

    init(
        _ configuration: QueueConfiguration, _ entries: UInt32, _ mapping: consuming GrantMapping,
        _ pool: consuming BufferPool, _ start: consuming RingStart, grants: any GrantTable,
        channel: any EventChannel, engine: any Engine, clock: any Clock, shared: DeviceShared, mailbox: DiscardMailbox,
        counters: CellWriter
    ) {
        self.grants = grants
        self.channel = channel
        self.engine = engine
        self.clock = clock
        self.shared = shared
        self.counters = counters
        domain = configuration.domain
        abi = configuration.abi
        limits = configuration.limits
        discardRules = configuration.discard
        blockMask = UInt64(max(configuration.volumeBlock, 512)) - 1
        pageMask = UInt64(configuration.limits.alignmentMask) | blockMask / Sector.size
        isNull = configuration.isNull
        pausesWhenFull = configuration.pausesWhenFull
        // The mapping has the ring's pages and lives as long as this value.
        let ringBase = unsafe mapping.base
        self.mapping = mapping
        ring = unsafe BackRing(
            base: ringBase, entries: entries, entrySize: configuration.abi.entrySize, startingAt: start.published,
            consumed: start.inFlight.consumed)
        seenProducer = start.inFlight.consumed
        journal = configuration.journal
        backlog = start.backlog(isShared: configuration.recovers)
        inFlight = start.takeTable()
        slots = FixedTable(repeating: Slot(), count: Int(entries))
        stalled = IndexQueue(capacity: Int(entries))
        let partCount = Self.parts(entries)
        parts = FixedTable(repeating: Part(), count: partCount)
        freeParts = FreeList(count: UInt16(partCount))
        held = IndexQueue(capacity: partCount)
        self.mailbox = mailbox
        waitingDiscards = IndexQueue(capacity: partCount)
        claims = shared.claims
        claimant = configuration.index
        claimed = FixedTable(repeating: ClaimedExtent(), count: Int(entries))
        arrived = IndexQueue(capacity: partCount + Int(entries) * 2)
        slabTags = FixedTable(
            repeating: IOOperation.unregistered, count: pool.ceiling / BufferPool.pageSize / BufferPool.slabPages + 1)
        self.pool = pool
        let none = unsafe IOOperation(.read, buffer: nil, slab: IOOperation.unregistered, offset: 0, length: 0, tag: 0)
        operations = FixedTable(repeating: none, count: partCount + Int(entries))
        completions = FixedTable(repeating: IOCompletion(tag: 0, result: 0), count: 64)
        chunk = ChunkPolicy(ringSize: entries)
    }

    static func parts(_ entries: UInt32) -> Int { Int(entries) + 256 }

    /// One turn; see `Queue.turn`.
    mutating func turn() -> Bool {
        now = clock.now()
        capacity = shared.capacity
        pageCapacity = capacity > 7 ? capacity - 7 : 0
        // What has nothing to do is not even called: after a switch of processes its code would come from far away.
        var worked = underWay > 0 && reap()
        if hasWaiting { worked = goOnWaiting() || worked }
        publish()
        worked = takeChunk() || worked
        if inbound.count > 0 || !arrived.isEmpty { settle() }
        if outbound.count > 0 { copyOutbound() }
        if operationCount > 0 { submit() }
        publish()
        if worked { count(.turns) }
        return worked
    }

    /// Something may wait for more than the engine: discards, claims, memory.
    @inline(__always) private var hasWaiting: Bool {
        !stalled.isEmpty || discardsUnderWay > 0 || !waitingDiscards.isEmpty || backlog.stage != .over
    }

    @inline(never) private mutating func goOnWaiting() -> Bool {
        var worked = reapDiscards()
        worked = resumeStalled() || worked
        return replay() || worked
    }

    /// See `Queue.arm`.
    mutating func arm() -> Bool {
        chunk.burstEnded()
        isWatching = false
        return !mayTake || ring.arm()
    }

    mutating func beginStop() {
        stopping = true
        mailbox.cancel()
    }

    /// Nothing is with the engine or the discard lane.
    var isDrained: Bool { underWay == 0 && operationCount == 0 && discardsUnderWay == 0 }

    /// Whether new requests may be taken: the ring is the queue for everything that has to wait.
    var mayTake: Bool { !stopping && stalled.isEmpty && condition == .running && backlog.stage == .over }

    /// Hands the prepared operations to the engine; what it has no room for stays for the next turn. A single one, after
    /// which there is nothing to do but sleep, may start with the call that sleeps.
    mutating func submit() {
        guard operationCount > 0 else { return }
        let lazily = operationCount == 1 && underWay == 0 && laziness.mayBeLazy && ring.isEmpty
        // `operations` holds `operationCount` valid operations, whose buffers belong to parts in use.
        let accepted = unsafe engine.submit(operations.pointer, count: operationCount, lazily: lazily)
        count(.submissions)
        underWay &+= accepted
        justSubmitted = accepted
        laziness.submitted(lazily: lazily)
        operationCount &-= accepted
        for index in 0..<operationCount { operations[index] = operations[index + accepted] }
    }

    /// Makes the answers visible, and looks whether the guest runs beside us.
    @inline(__always) private mutating func publish() {
        if isWatching, ring.requestProducer() != seenProducer { chunk.sawGuestRun() }
        isWatching = true
        if inFlight.answered > 0 { publishAnswers() }
        seenProducer = ring.requestProducer()
    }

    /// P3-P6; a ring that was stopped stays as it is.
    @inline(never) private mutating func publishAnswers() {
        countRecent()
        if case .violated = condition { return }
        let notify = ring.publish()
        inFlight.noteCommitted(ring.produced)
        releaseAnswered()
        if notify {
            channel.notify()
            count(.notificationsSent)
        }
    }

    /// Gives buffer memory back; see `Queue.trim`.
    mutating func trim() {
        guard inFlight.inUse == 0 else { return }  // every block belongs to a request
        for slab in 0..<pool.slabs where slabTags[slab] != IOOperation.unregistered {
            engine.unregister(slab: UInt16(slab))
            slabTags[slab] = IOOperation.unregistered
        }
        pool.shrink()
        pageOperations = 0
        counters.set(CellLayout.events + QueueEvent.bufferBytes.rawValue, 0)
    }

    func count(_ event: QueueEvent, _ amount: UInt64 = 1) {
        counters.add(CellLayout.events &+ event.rawValue, amount)
    }

    /// Changes the condition and tells the control thread.
    mutating func become(_ new: QueueCondition) {
        condition = new
        conditionChanges &+= 1
        shared.callForAttention()
    }
}
