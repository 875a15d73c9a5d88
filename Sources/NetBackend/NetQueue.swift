internal import CXen
public import Descriptors
internal import Glibc
public import NetFrames
public import SharedRing
public import Telemetry
internal import Uring
public import XenWire

/// What the queues of one interface are told when a frontend connects.
public struct NetQueueConfiguration: Sendable {
    /// For thread names and messages: `vif-1-0.0`.
    public var name: String
    public var domain: DomainID
    /// The domain that this process belongs to.
    public var backend: DomainID
    public var rings: NetConnection.Rings
    public var offloads: GuestOffloads
    /// Packets to the guest may take more than one slot.
    public var scatters: Bool
    /// The guest sends an event when it has put up receive buffers; else they are looked for.
    public var notifiesReceive: Bool
    /// What the guest may send; nil: anything.
    public var filter: SourceFilter?
    /// The interface's, shared by its queues.
    public var limit: RateLimit
    /// What the guest wants of the frames that it gets: the interface's, for all of its queues.
    public var policy: SharedReceivePolicy
    /// Where the rings' private indices start; nil: behind the last response, which is 0 on a fresh ring.
    public var firstIndices: (transmit: UInt32, receive: UInt32)?
    /// Where what is being answered is written down, with `NetQueue.journalBytes` in its body; nil: nowhere.
    public var journal: Journal?
    /// The journal is an earlier process's, which has served these rings.
    public var recovers: Bool

    public init(
        name: String, domain: DomainID, backend: DomainID, rings: NetConnection.Rings, offloads: GuestOffloads,
        scatters: Bool,
        notifiesReceive: Bool = true, filter: SourceFilter? = nil, limit: RateLimit = RateLimit(),
        policy: SharedReceivePolicy = SharedReceivePolicy(),
        firstIndices: (transmit: UInt32, receive: UInt32)? = nil, journal: Journal? = nil, recovers: Bool = false
    ) {
        self.name = name
        self.domain = domain
        self.backend = backend
        self.rings = rings
        self.offloads = offloads
        self.scatters = scatters
        self.notifiesReceive = notifiesReceive
        self.filter = filter
        self.limit = limit
        self.policy = policy
        self.firstIndices = firstIndices
        self.journal = journal
        self.recovers = recovers
    }
}

/// How a queue is doing.
public enum NetCondition: Sendable, Equatable {
    case running
    /// The guest has taken no frame for a long time though there were some.
    case stalled
    /// Both rings were stopped for good because the guest broke a rule.
    case violated(NetViolation)
    /// The TAP device is gone.
    case failed(Fault)
}

/// One queue pair of a virtual network interface: two rings, their grants, their event channels and a queue of a TAP
/// device, served by steps that never block.
///
/// Owned by one thread, and no step calls back into the queue: that is why access to the state, one noncopyable struct,
/// need not be checked for exclusivity at run time.
public final class NetQueue {
    @exclusivity(unchecked) private var core: NetQueueCore
    /// The counters, readable from any thread.
    public let cells: Cells

    /// Maps both rings.
    ///
    /// - Parameter tap: a TAP queue's descriptor, non-blocking; it outlives the queue.
    public init(
        _ configuration: NetQueueConfiguration, grants: any GrantTable, transmitEvents: any EventChannel,
        receiveEvents: any EventChannel, tap: Int32, clock: any Clock = SystemClock()
    ) throws(Fault) {
        cells = Cells(count: NetQueueCore.violationCells + NetViolation.allCases.count)
        // All that can fail comes first: Swift 6.3 frees garbage when a noncopyable value is given up half made.
        let transmit = try grants.map([configuration.rings.transmit], of: configuration.domain, writable: true)
        let receive = try grants.map([configuration.rings.receive], of: configuration.domain, writable: true)
        let memory = try FrameMemory()
        // The memory's own pages, which go before the table that the core holds.
        unsafe grants.favour(memory.busy, pages: FrameMemory.busyPages, of: configuration.backend)
        unsafe core = NetQueueCore(
            configuration, transmit, receive, memory, grants: grants, transmitEvents: transmitEvents,
            receiveEvents: receiveEvents, tap: tap, clock: clock, counters: cells.writer)
    }

    /// Bytes of a queue's part of its journal: a record for each ring.
    public static let journalBytes = 2 * NetQueueCore.recordBytes

    /// Sends what the guest has put up and delivers what the TAP device has; true if it did anything.
    public func turn() -> Bool { unsafe core.turn() }

    /// Asks the frontend for events and looks once more; true if the caller may sleep.
    public func arm() -> Bool { unsafe core.arm() }

    /// A frame from the TAP device would reach the guest now: it is worth to be woken for one.
    public var canDeliver: Bool { unsafe core.canDeliver }

    /// Of the TAP device's frames nothing is left since the last turn, as far as that saw: who waits for the next needs no
    /// other turn before.
    var hasTakenAll: Bool { unsafe core.hasTakenAll }

    /// Nothing can be delivered until the guest puts up receive buffers.
    public var lacksBuffers: Bool { unsafe core.lacksBuffers }

    public var condition: NetCondition { unsafe core.condition }

    /// When the rate limit lets something pass again that waits for it, on the queue's clock; `UInt64.max` if nothing does.
    public var restEnds: UInt64 { unsafe core.restEnds }

    /// The rate limit was changed: what waits for it is looked at anew.
    public func endRest() { unsafe core.endRest() }

    /// Throws away what waits for the guest's receive buffers; how many frames that was.
    public func discardBacklog() -> Int { unsafe core.discardBacklog() }

    func count(_ counter: NetCounter) { unsafe core.count(counter) }
}

/// What a queue counts.
public enum NetCounter: Int, CaseIterable, Sendable {
    /// From the guest, and to the guest: packets and bytes that reached the other side.
    case transmittedPackets, transmittedBytes, receivedPackets, receivedBytes
    /// Packets of the guest that were not sent: too many slots, inconsistent sizes, too short; no such grant; a sum or
    /// segmentation of what is not understood; refused by the host's network.
    case tooManySlots, longerThanSaid, tooShort, grantRefused, frameRefused, hostRefused
    /// Packets of the guest that were not sent because a process had ended during each of them, for a fault of its own.
    case condemned
    /// Packets to the guest that were not delivered: larger than it takes, no such grant, cut from what is no TCP.
    case tooLarge, receiveGrantRefused, notCuttable
    /// Frames thrown away because the guest has put up no buffers for long.
    case expired
    /// Changes of the multicast list, those that could not be, and frames to groups that are not on it.
    case multicastChanges, multicastRefused, multicastFiltered
    case turns, sleeps, eventsReceived, eventsSent
    /// Calls of the grant table and segments in them.
    case grantCopies, grantSegments
}

/// The state of a queue pair.
///
/// Methods on the way of a packet are mutating even if they change nothing: Swift 6.3 copies the whole struct before one that
/// is not is called, out of line, by one that is (the gate hot-symbols looks for that).
struct NetQueueCore: ~Copyable {
    let grants: any GrantTable
    let transmitEvents: any EventChannel
    let receiveEvents: any EventChannel
    let domain: DomainID
    let offloads: GuestOffloads
    let scatters: Bool
    let filter: SourceFilter?
    let limit: RateLimit
    let clock: any Clock
    let policy: SharedReceivePolicy
    var rules = ReceiveRules()
    /// Keep the rings' pages mapped.
    private let transmitMapping: GrantMapping
    private let receiveMapping: GrantMapping

    var transmit: BackRing
    var receive: BackRing
    /// Private copies of the transmit requests of a turn, and of the receive requests that are about to be answered: what
    /// responses overwrite.
    let requests: FixedTable<netif_tx_request_wire>
    let buffers: FixedTable<UInt64>
    var transmitRecord: AnswerRecord
    var receiveRecord: AnswerRecord
    let journal: Journal?
    /// The process before this one has ended for a fault of its own, and nothing has gone well since.
    var isCautious: Bool
    /// Until where packets from the guest go alone, once that is known.
    var aloneUntil: UInt32?
    /// Packets of one batch at most.
    var batchLimit = FrameMemory.writes
    let packets: FixedTable<OutgoingPacket>
    /// Responses of a turn to the receive ring, in ring order.
    let deliveries: FixedTable<ReceiveSlot>
    var deliveryCount = 0
    let segments: FixedTable<xen_grant_copy_segment>
    var segmentCount = 0
    /// Frames of a turn, one direction after the other.
    let memory: FrameMemory
    let tap: Int32
    /// Frames to the TAP device.
    var outgoing: FrameBatch
    /// Frames from the TAP device, where many wait and the kernel can read many at once.
    var incoming: FrameReads?
    var train = FrameTrain()
    /// The last look at the TAP device found less than was looked for.
    var isDry = false
    /// The frames that were read in this turn. Those from `nextRead` on are not delivered yet: the guest has too few slots.
    let frames: FixedTable<ReadFrame>
    var readCount = 0
    var nextRead = 0
    /// The rate limit has let the next of them pass.
    var nextIsPaid = false
    /// The guest asked for an event at one of the responses of this turn.
    var owesReceiveEvent = false
    /// Until when the rate limit keeps packets back, on the clock; 0: it does not.
    var transmitRest: UInt64 = 0
    var receiveRest: UInt64 = 0
    /// Of this turn, where there is a rate limit; 0 where there is none.
    var now: UInt64 = 0
    /// The receive ring's `req_prod` when this turn began to look at it.
    var seenReceive: UInt32 = 0

    var condition = NetCondition.running
    let counters: CellWriter

    init(
        _ configuration: NetQueueConfiguration, _ transmit: consuming GrantMapping, _ receive: consuming GrantMapping,
        _ memory: consuming FrameMemory, grants: any GrantTable, transmitEvents: any EventChannel,
        receiveEvents: any EventChannel, tap: Int32,
        clock: any Clock, counters: CellWriter
    ) {
        self.grants = grants
        self.transmitEvents = transmitEvents
        self.receiveEvents = receiveEvents
        self.counters = counters
        domain = configuration.domain
        offloads = configuration.offloads
        scatters = configuration.scatters
        filter = configuration.filter
        limit = configuration.limit
        self.clock = clock
        policy = configuration.policy
        // Each mapping is one page and lives as long as this value.
        let (transmitBase, receiveBase) = unsafe (transmit.base, receive.base)
        transmitMapping = transmit
        receiveMapping = receive
        unsafe self.transmit = BackRing(
            base: transmitBase, entries: NetRing.slots, entrySize: NetRing.transmitSlot,
            startingAt: configuration.firstIndices?.transmit ?? xen_load_relaxed(transmitBase + Int(XEN_RING_RSP_PROD)))
        unsafe self.receive = BackRing(
            base: receiveBase, entries: NetRing.slots, entrySize: NetRing.receiveSlot,
            startingAt: configuration.firstIndices?.receive ?? xen_load_relaxed(receiveBase + Int(XEN_RING_RSP_PROD)))
        let slots = Int(NetRing.slots)
        journal = configuration.journal
        isCautious = configuration.journal.map { $0.faults > 0 } ?? false
        transmitRecord = AnswerRecord(slots: slots, of: NetRing.transmitSlot, in: journal)
        receiveRecord = AnswerRecord(slots: slots, of: NetRing.receiveSlot, in: journal, at: Self.recordBytes)
        // The records live as long as the tables, which are in them.
        requests = unsafe FixedTable(in: transmitRecord.copies, count: slots)
        buffers = unsafe FixedTable(in: receiveRecord.copies, count: slots)
        packets = FixedTable(repeating: OutgoingPacket(), count: slots)
        deliveries = FixedTable(repeating: ReceiveSlot(), count: slots)
        segments = FixedTable(
            repeating: xen_grant_copy_segment(source: 0, dest: 0, length: 0, flags: 0, status: 0, pad: 0),
            count: 2 * slots)
        self.memory = memory
        outgoing = FrameBatch(file: tap, capacity: FrameMemory.writes)
        incoming = try? FrameReads(file: tap)
        self.tap = tap
        frames = FixedTable(repeating: ReadFrame(), count: FrameMemory.reads)
        guard configuration.recovers else { return }
        transmitRecord.restore(to: self.transmit)
        receiveRecord.restore(to: self.receive)
    }

    /// Whole pages.
    static let recordBytes = (AnswerRecord.bytes(slots: Int(NetRing.slots), of: NetRing.transmitSlot) + 4095) & ~4095

    mutating func turn() -> Bool {
        guard condition == .running else { return false }
        beginTurn()
        return isCautious ? cautiousTurn() : ordinaryTurn()
    }

    mutating func ordinaryTurn() -> Bool {
        var worked = transmitPackets()
        // A broken rule of one ring stops both.
        if condition == .running { worked = receivePackets() || worked }
        if worked { count(.turns) }
        return worked
    }

    /// Events are asked for where they would find something to do: for the first new request, and for new receive buffers
    /// only while there are too few. Those that are there do not count: a guest that leaves one slot too few must not keep
    /// a processor busy.
    func arm() -> Bool {
        guard condition == .running else { return true }
        let mayWait = transmitRest > 0 || transmit.arm()
        return (!lacksBuffers || receive.arm(beyond: seenReceive)) && mayWait
    }

    /// Nothing can be delivered until the guest puts up receive buffers.
    var lacksBuffers: Bool { condition == .running && receiveRest == 0 && (nextRead < readCount || receive.isEmpty) }

    var canDeliver: Bool { condition == .running && nextRead >= readCount && !receive.isEmpty }

    /// The TAP device's descriptor tells of whatever a turn would find there, and `arm` of the rings.
    var hasTakenAll: Bool { canDeliver && isDry && restEnds == .max }

    // MARK: the rate limit

    private mutating func beginTurn() {
        now = limit.isSet ? clock.now() : 0
        if transmitRest <= now || now == 0 { transmitRest = 0 }
        if receiveRest <= now || now == 0 { receiveRest = 0 }
    }

    /// Nanoseconds until the limit lets a packet pass; 0: it is on its way.
    func delay(_ bytes: Int) -> UInt64 { now == 0 ? 0 : limit.take(bytes, now: now) }

    var restEnds: UInt64 {
        min(transmitRest == 0 ? .max : transmitRest, receiveRest == 0 ? .max : receiveRest)
    }

    mutating func endRest() {
        transmitRest = 0
        receiveRest = 0
    }

    @inline(never) mutating func violated(_ violation: NetViolation) {
        condition = .violated(violation)
        counters.add(Self.violationCells &+ Int(violation.rawValue), 1)
    }

    func count(_ counter: NetCounter, _ amount: UInt64 = 1) { counters.add(counter.rawValue, amount) }

    /// Where the counters of violations begin, behind those of what the filter keeps back.
    static var violationCells: Int { NetCounter.allCases.count &+ FilterReason.allCases.count }

    func count(_ reason: FilterReason) { counters.add(NetCounter.allCases.count &+ Int(reason.rawValue), 1) }
}

extension Cells {
    /// Packets of the guest that the filter kept back.
    public subscript(reason: FilterReason) -> UInt64 { load(NetCounter.allCases.count + Int(reason.rawValue)) }

    /// How often the guest broke a rule that stops the queue: once at most.
    public subscript(violation: NetViolation) -> UInt64 { load(NetQueueCore.violationCells + Int(violation.rawValue)) }
}

/// A packet from the guest on its way.
struct OutgoingPacket: BitwiseCopyable {
    /// Its first slot among the requests of the turn, how many it has, and how many of those are extra info.
    var first: UInt16 = 0
    var slots: UInt16 = 0
    var extras: UInt16 = 0
    /// Its copy segments.
    var firstSegment: UInt16 = 0
    var segments: UInt16 = 0
    /// Where the frame lies, and its length; 0: it is not sent.
    var offset: UInt32 = 0
    var size: UInt32 = 0
    var flags: UInt16 = 0
    var segmentSize: UInt16 = 0
    var segmentKind: UInt8 = 0
    /// It was handed to the TAP device.
    var isWritten = false
    var status: Int16 = 0
}

/// A response on the receive ring.
struct ReceiveSlot: BitwiseCopyable {
    /// The whole slot, as if its data will have been copied.
    let word: UInt64
    /// Its copy segment; `noSegment` where the slot holds extra info.
    let segment: UInt16
    /// Of the packet: this is its first slot.
    let isFirst: Bool

    static var noSegment: UInt16 { @_noLocks get { .max } }
    /// Where the number of bytes lies, or a status.
    static var statusBits: UInt64 { @_noLocks get { 48 } }

    /// Of data.
    ///
    /// - Parameter offset: where it begins in the guest's page.
    @inline(__always) init(
        _ id: UInt16, _ flags: ReceiveFlags, offset: Int, _ bytes: Int, segment: Int, isFirst: Bool = false
    ) {
        word =
            UInt64(id) | UInt64(truncatingIfNeeded: offset) << 16 | UInt64(flags.rawValue) << 32
            | UInt64(truncatingIfNeeded: bytes) << Self.statusBits
        self.segment = UInt16(truncatingIfNeeded: segment)
        self.isFirst = isFirst
    }

    /// Of extra info.
    init(extra word: UInt64) {
        self.word = word
        segment = Self.noSegment
        isFirst = false
    }

    init() {
        word = 0
        segment = 0
        isFirst = false
    }

    /// Bytes of data.
    var size: UInt64 { @_noLocks get { word >> Self.statusBits } }

    /// The slot if nothing was copied.
    var failed: UInt64 {
        @_noLocks get {
            word & ((1 << Self.statusBits) &- 1)
                | UInt64(UInt16(bitPattern: NetStatus.error.rawValue)) << Self.statusBits
        }
    }
}

/// What is said of a packet to the guest in extra-info slots.
struct FrameExtras: BitwiseCopyable {
    var segmentation: Segmentation?
    /// Bytes; 0: the guest wants none.
    var headroom: Int
    var hash: PacketHash?

    /// Slots.
    var count: Int { (segmentation == nil ? 0 : 1) + (headroom == 0 ? 0 : 1) + (hash == nil ? 0 : 1) }
}
