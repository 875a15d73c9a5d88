internal import Descriptors
internal import SharedRing
public import XenWire
internal import Xenbus
public import Xenstore

/// What a frontend asks for when it connects.
public struct FrontendOptions: Sendable {
    /// The request layout that it uses.
    public var abi: BlockABI
    /// Queues; no more than the backend has are used.
    public var queues: Int
    /// Pages of each ring, a power of two; no more than the backend allows are used.
    public var ringPages: UInt32
    /// Offers persistent grants.
    public var offersPersistent: Bool
    /// How each queue is used. Segments are limited to what the backend takes.
    public var queue: FrontQueueOptions

    /// All options.
    public init(
        abi: BlockABI = .native, queues: Int = 1, ringPages: UInt32 = 1, offersPersistent: Bool = false,
        queue: FrontQueueOptions = FrontQueueOptions()
    ) {
        self.abi = abi
        self.queues = queues
        self.ringPages = ringPages
        self.offersPersistent = offersPersistent
        self.queue = queue
    }
}

/// A disk as its backend describes it, once connected.
public struct FrontendDisk: Sendable, Equatable {
    public var capacity: Sector
    public var sectorSize: UInt32
    public var isReadOnly: Bool
    public var offersFlush: Bool
    public var offersBarrier: Bool
    public var offersDiscard: Bool
    public var offersPersistent: Bool
    /// 0 where indirect requests are not offered.
    public var indirectSegments: UInt16

    /// Segments that one request can have.
    public var maximumSegments: UInt16 { max(SegmentLimit.direct, indirectSegments) }
}

/// A queue that is handed from the thread that connected it to the one that uses it.
///
/// Sendable because it is used by one thread at a time, which its owner sees to.
public final class FrontQueueBox: @unchecked Sendable {
    private var queue: FrontQueue?

    init(_ queue: consuming FrontQueue) {
        self.queue = consume queue
    }

    /// Lends the queue out; once for a whole run, not once for a request.
    public func withQueue<Result, Failure: Error>(
        _ body: (inout FrontQueue) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // Absent only after `close`, which is the last call.
        guard var taken = queue.take() else { preconditionFailure("a closed queue was used") }
        do throws(Failure) {
            let result = try body(&taken)
            queue = consume taken
            return result
        } catch {
            queue = consume taken
            throw error
        }
    }

    /// Ends the queue, after the backend has closed.
    func close() throws(BackendMisbehaviour) {
        guard let taken = queue.take() else { return }
        try taken.close()
    }
}

/// A blkfront: connects as Linux' does (talk_to_blkback, blkfront_connect), with the same keys in the same order.
public final class BlockFrontend {
    /// The queues in use; empty while not connected.
    public private(set) var queues: [FrontQueueBox] = []
    private let domain: GuestDomain
    private let bus: FrontendBus

    /// - Parameters:
    ///   - xenstore: the domain's own connection, used by this object only.
    ///   - path: the frontend's directory.
    public init(
        _ domain: GuestDomain, _ xenstore: XenstoreClient, at path: XenstorePath,
        _ patience: XenstorePatience = .polling()
    ) throws(LoopbackError) {
        self.domain = domain
        bus = try FrontendBus(xenstore, at: path, patience)
    }

    // ---- Connecting

    /// Connects and returns what the disk is like; `queues` can be used then.
    ///
    /// - Parameter options: judged by what the backend offers: called once its features are known.
    public func connect(_ options: FrontendOptions) throws(LoopbackError) -> FrontendDisk {
        try bus.awaitBackend([.initWait])
        var setups = RingSetups()
        try publish(options, &setups)
        try bus.awaitBackend([.connected])
        let disk = try readDisk()
        var queue = options.queue
        queue.segments = min(queue.segments, disk.maximumSegments)
        if options.offersPersistent && disk.offersPersistent { queue.grantsPerRequest = false }
        queues = try setups.finish(backend: bus.backend, domain: domain, options: queue)
        try bus.switchState(.connected)
        return disk
    }

    private func publish(_ options: FrontendOptions, _ setups: inout RingSetups) throws(LoopbackError) {
        let limits = try bus.readNumbers(["multi-queue-max-queues", "max-ring-page-order"])
        let count = min(max(options.queues, 1), Int(clamping: limits[0] ?? 1))
        let pages = min(options.ringPages, 1 << UInt32(clamping: min(limits[1] ?? 0, 10)))
        for _ in 0..<count {
            try host { () throws(Fault) in
                try setups.add(
                    FrontRingSetup(pages: pages, abi: options.abi, domain: domain, backend: bus.backend))
            }
        }
        let keys = Self.keys(options, setups.published, pages: pages)
        try bus.write(keys)
        try bus.switchState(.initialised)
    }

    /// What a frontend writes before Initialised, in blkfront's order.
    static func keys(
        _ options: FrontendOptions, _ rings: [PublishedRing], pages: UInt32
    ) -> [(String, String)] {
        var keys: [(String, String)] = []
        if pages > 1 { keys.append(("ring-page-order", "\(pages.trailingZeroBitCount)")) }
        if rings.count > 1 { keys.append(("multi-queue-num-queues", "\(rings.count)")) }
        for (index, ring) in rings.enumerated() {
            let prefix = rings.count > 1 ? "queue-\(index)/" : ""
            for (page, reference) in ring.references.enumerated() {
                keys.append(("\(prefix)ring-ref\(pages > 1 ? "\(page)" : "")", "\(reference)"))
            }
            keys.append(("\(prefix)event-channel", "\(ring.port)"))
        }
        keys.append(("protocol", options.abi == .native ? "x86_64-abi" : "x86_32-abi"))
        keys.append(("feature-persistent", options.offersPersistent ? "1" : "0"))
        return keys
    }

    /// blkfront_connect and blkfront_gather_backend_features.
    private func readDisk() throws(LoopbackError) -> FrontendDisk {
        let numbers = try bus.readNumbers([
            "sectors", "sector-size", "info", "feature-flush-cache", "feature-barrier", "feature-discard",
            "feature-persistent", "feature-max-indirect-segments",
        ])
        guard let sectors = numbers[0], let size = numbers[1], let info = numbers[2] else {
            throw .badNode(bus.backendPath)
        }
        func flag(_ index: Int) -> Bool { numbers[index] == 1 }
        return FrontendDisk(
            capacity: Sector(sectors), sectorSize: UInt32(clamping: size), isReadOnly: info & 4 != 0,
            offersFlush: flag(3), offersBarrier: flag(4), offersDiscard: flag(5), offersPersistent: flag(6),
            indirectSegments: min(UInt16(clamping: numbers[7] ?? 0), SegmentLimit.indirect))
    }

    /// The capacity now; the backend rewrites its state when that has changed, and `awaitNews` returns.
    public func capacity() throws(LoopbackError) -> Sector {
        guard let sectors = try bus.readNumbers(["sectors"])[0] else { throw .badNode(bus.backendPath) }
        return Sector(sectors)
    }

    // ---- Closing

    /// Closes if the backend is closing, as blkfront does; true if it has closed. Does not wait.
    public func serveClosing() throws(LoopbackError) -> Bool {
        let state = try bus.backendState()
        guard state == .closing || state == .closed else { return false }
        try bus.switchState(.closed)
        return true
    }

    /// Closes from the guest's side: Closing, Closed, each answered by the backend.
    public func close() throws(LoopbackError) {
        try bus.switchState(.closing)
        try bus.awaitBackend([.closing, .closed])
        try bus.switchState(.closed)
        try bus.awaitBackend([.closed])
        try release()
    }

    /// Comes back after `close`: Initialising, for another `connect`.
    public func reopen() throws(LoopbackError) {
        try bus.switchState(.initialising)
    }

    /// Ends the queues' grants; the backend has closed and must have let go.
    public func release() throws(LoopbackError) {
        do {
            for queue in queues { try queue.close() }
        } catch {
            throw .backend(error)
        }
        queues = []
    }
}

/// What xenstore says of a ring.
struct PublishedRing {
    let references: [GrantReference]
    let port: EventPort
}

/// Rings between their publication and the moment when the disk's features are known.
struct RingSetups {
    private var boxes: [Box] = []
    private(set) var published: [PublishedRing] = []

    /// Arrays hold copyable values only.
    private final class Box {
        var setup: FrontRingSetup?
        init(_ setup: consuming FrontRingSetup) { self.setup = consume setup }
    }

    mutating func add(_ setup: consuming FrontRingSetup) {
        published.append(PublishedRing(references: setup.references, port: setup.port.number))
        boxes.append(Box(setup))
    }

    mutating func finish(
        backend: DomainID, domain: GuestDomain, options: FrontQueueOptions
    ) throws(LoopbackError) -> [FrontQueueBox] {
        var queues: [FrontQueueBox] = []
        for box in boxes {
            guard let setup = box.setup.take() else { continue }
            do {
                queues.append(
                    FrontQueueBox(try FrontQueue(setup, backend: backend, domain: domain, options: options)))
            } catch {
                throw .host(error)
            }
        }
        return queues
    }
}
