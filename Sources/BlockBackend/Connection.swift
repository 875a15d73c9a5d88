public import XenWire
public import Xenbus
internal import Xenstore

/// What the backend offers to every frontend, before it knows any of its disks.
public struct ConnectionOffer: Equatable, Sendable {
    /// `multi-queue-max-queues`: 1...8.
    public var queues: Int
    /// `max-ring-page-order`: 0...4, for rings of 1 to 16 pages.
    public var ringPageOrder: Int
    /// `feature-max-indirect-segments`: 0 (not offered) ... 4,096.
    public var indirectSegments: UInt16
    /// `sector-size` in bytes: 512 or 4,096.
    public var sectorSize: Int
    /// `feature-persistent`: pages that frontends keep granted stay mapped.
    public var persistentGrants: Bool

    public static let queueRange = 1...8
    public static let ringPageOrderRange = 0...4
    public static let indirectSegmentRange = 0...Int(SegmentLimit.indirect)
    public static let sectorSizes = [512, 4096]

    /// Values outside the ranges are brought to the nearest end.
    public init(
        queues: Int = 8, ringPageOrder: Int = 4, indirectSegments: Int = 256, sectorSize: Int = 512,
        persistentGrants: Bool = true
    ) {
        self.queues = queues.clamped(to: Self.queueRange)
        self.ringPageOrder = ringPageOrder.clamped(to: Self.ringPageOrderRange)
        self.indirectSegments = UInt16(indirectSegments.clamped(to: Self.indirectSegmentRange))
        self.sectorSize = sectorSize == 4096 ? 4096 : 512
        self.persistentGrants = persistentGrants
    }

    /// What a guest that is connected goes by: what it was offered when it connected, as our own directory says, with all the
    /// room for rings that any version has offered. A frontend's own `feature-persistent` does not tell whether it found
    /// ours; one that did not takes pages back that would still be mapped.
    static func agreed(_ published: NodeValues, _ offer: ConnectionOffer) -> ConnectionOffer {
        var offer = offer
        offer.queues = queueRange.upperBound
        offer.ringPageOrder = ringPageOrderRange.upperBound
        let segments = published["feature-max-indirect-segments"]?.text.flatMap { Int($0) }
        offer.indirectSegments = UInt16(
            (segments ?? indirectSegmentRange.upperBound).clamped(to: indirectSegmentRange))
        offer.persistentGrants = published["feature-persistent"]?.text == "1"
        if let size = published["sector-size"]?.text { offer.sectorSize = size == "4096" ? 4096 : 512 }
        return offer
    }

    /// Nodes of our own directory that `agreed` goes by.
    static let publishedKeys = ["feature-max-indirect-segments", "feature-persistent", "sector-size"]

    /// What a frontend reads before it sets up its rings.
    public var transportKeys: [PublishedKey] {
        let indirect = PublishedKey("feature-max-indirect-segments", indirectSegments)
        return (indirectSegments > 0 ? [indirect] : []) + [
            PublishedKey("multi-queue-max-queues", queues), PublishedKey("max-ring-page-order", ringPageOrder),
            PublishedKey("feature-persistent", persistentGrants ? 1 : 0),
        ]
    }
}

/// What a frontend's keys amount to: everything that the queues need to be started.
public struct Connection: Equatable, Sendable {
    /// One queue's ring and event channel.
    public struct Ring: Equatable, Sendable {
        /// The ring's pages in order.
        public let references: [GrantReference]
        public let port: EventPort

        public init(references: [GrantReference], port: EventPort) {
            self.references = references
            self.port = port
        }
    }

    /// The request layout.
    public let abi: BlockABI
    public let rings: [Ring]
    /// The frontend keeps its pages granted, and both sides want it so.
    public let persistentGrants: Bool

    public init(abi: BlockABI, rings: [Ring], persistentGrants: Bool = false) {
        self.abi = abi
        self.rings = rings
        self.persistentGrants = persistentGrants
    }
}

// Which keys are read.
extension Connection {
    /// The keys whose names are fixed.
    public static let fixedKeys = [
        "protocol", "ring-page-order", "multi-queue-num-queues", "feature-persistent", "feature-large-sector-size",
        "ring-ref", "ring-ref0", "event-channel",
    ]

    /// The keys whose names follow from the fixed ones; none if those break a rule, which `negotiate` then names.
    public static func ringKeys(after known: NodeValues, _ offer: ConnectionOffer) -> [String] {
        guard let shape = try? Shape(known, offer) else { return [] }
        return (0..<shape.queues).flatMap { queue in
            shape.referenceKeys(queue: queue).flatMap { $0 } + [shape.prefix(queue) + "event-channel"]
        }
    }
}

// What they mean.
extension Connection {
    /// Judges everything that a frontend said about its rings.
    public static func negotiate(_ keys: NodeValues, _ offer: ConnectionOffer) throws(KeyRefusal) -> Connection {
        let abi = try abi(keys["protocol"])
        let reader = KeyReader(keys)
        let persistent = try reader.flag("feature-persistent", ifMissing: false)
        try checkSectorSize(reader, offer)
        let shape = try Shape(keys, offer)
        var rings: [Ring] = []
        for queue in 0..<shape.queues { rings.append(try ring(reader, shape, queue)) }
        try checkDistinct(rings, shape, keys)
        return Connection(abi: abi, rings: rings, persistentGrants: persistent && offer.persistentGrants)
    }

    /// A missing key means x86_32: so do Linux and tapdisk, against the header, and old 32-bit guests rely on it.
    private static func abi(_ value: XenstoreValue?) throws(KeyRefusal) -> BlockABI {
        guard let value else { return .x86_32 }
        guard value.bytes.count <= 63 else { throw KeyRefusal("protocol", value, "must have at most 63 characters") }
        switch value.text {
        case "x86_32-abi": return .x86_32
        case "x86_64-abi", "arm-abi": return .native
        default: throw KeyRefusal("protocol", value, "must be x86_32-abi, x86_64-abi or arm-abi")
        }
    }

    /// Frontends with the deprecated key count sectors in units of their own (Xen 4.20, blkif.h), which only agree with
    /// everybody else's when the sector is 512 bytes.
    private static func checkSectorSize(_ reader: KeyReader, _ offer: ConnectionOffer) throws(KeyRefusal) {
        let key = "feature-large-sector-size"
        guard try reader.flag(key, ifMissing: false), offer.sectorSize != 512 else { return }
        throw KeyRefusal(key, reader.keys[key], "is served with a sector-size of 512 only, not \(offer.sectorSize)")
    }

    /// FIFO event channels number up to 2^17 (xen/event_channel.h); 0 is never a valid port.
    private static let portRange: ClosedRange<UInt64> = 1...0x1_FFFF

    private static func ring(_ reader: KeyReader, _ shape: Shape, _ queue: Int) throws(KeyRefusal) -> Ring {
        var references: [GrantReference] = []
        for names in shape.referenceKeys(queue: queue) {
            let name = names.first { reader.keys[$0] != nil } ?? names[0]
            let number = try reader.number(name, in: 0...UInt64(UInt32.max))
            references.append(GrantReference(UInt32(truncatingIfNeeded: number)))
        }
        let port = try reader.number(shape.prefix(queue) + "event-channel", in: portRange)
        return Ring(references: references, port: EventPort(UInt32(truncatingIfNeeded: port)))
    }

    /// No page may belong to two rings or twice to one, and no event channel to two queues: one of them would starve, or
    /// both would write the same indices.
    private static func checkDistinct(
        _ rings: [Ring], _ shape: Shape, _ keys: NodeValues
    ) throws(KeyRefusal) {
        var references: Set<GrantReference> = []
        var ports: Set<EventPort> = []
        for (queue, ring) in rings.enumerated() {
            let port = shape.prefix(queue) + "event-channel"
            guard ports.insert(ring.port).inserted else {
                throw KeyRefusal(port, keys[port], "is the event channel of another queue")
            }
            for (page, reference) in ring.references.enumerated() where !references.insert(reference).inserted {
                let name = shape.referenceKeys(queue: queue)[page].first { keys[$0] != nil } ?? "ring-ref"
                throw KeyRefusal(name, keys[name], "is already a page of a ring")
            }
        }
    }
}

/// How many queues of how many pages, and so the names of their keys.
private struct Shape {
    let queues: Int
    let pages: Int
    /// `ring-page-order` exists, be it 0.
    private let hasOrder: Bool

    init(_ keys: NodeValues, _ offer: ConnectionOffer) throws(KeyRefusal) {
        let reader = KeyReader(keys)
        let order = try reader.number("ring-page-order", in: 0...UInt64(offer.ringPageOrder), ifMissing: 0)
        let queues = try reader.number("multi-queue-num-queues", in: 1...UInt64(offer.queues), ifMissing: 1)
        self.queues = Int(truncatingIfNeeded: queues)
        pages = 1 << Int(truncatingIfNeeded: order)
        hasOrder = keys["ring-page-order"] != nil
    }

    /// A single queue's keys are not in a directory of their own.
    func prefix(_ queue: Int) -> String { queues > 1 ? "queue-\(queue)/" : "" }

    /// For each page the names that its reference may have, the likelier one first. A frontend that writes an order of 0
    /// may mean either name: Linux' blkback then expects `ring-ref0`, tapdisk `ring-ref`.
    func referenceKeys(queue: Int) -> [[String]] {
        let prefix = prefix(queue)
        if pages > 1 { return (0..<pages).map { ["\(prefix)ring-ref\($0)"] } }
        let names = [prefix + "ring-ref", prefix + "ring-ref0"]
        return [hasOrder ? names.reversed() : names]
    }
}

extension Comparable {
    fileprivate func clamped(to range: ClosedRange<Self>) -> Self { min(max(self, range.lowerBound), range.upperBound) }
}
