public import NetFrames
public import XenWire
public import Xenbus
internal import Xenstore

/// What the backend offers to every frontend.
public struct NetOffer: Equatable, Sendable {
    /// `multi-queue-max-queues`: 1...8.
    public var queues: Int
    /// `feature-split-event-channels`.
    public var splitsEvents: Bool

    public static let queueRange = 1...8

    public init(queues: Int = 8, splitsEvents: Bool = true) {
        self.queues = min(max(queues, Self.queueRange.lowerBound), Self.queueRange.upperBound)
        self.splitsEvents = splitsEvents
    }

    /// What a frontend reads before it sets up its rings. Flags are 0 or 1 and nothing else: Windows reads them in base 2.
    public var transportKeys: [PublishedKey] {
        [
            PublishedKey("feature-sg", 1), PublishedKey("feature-gso-tcpv4", 1), PublishedKey("feature-gso-tcpv6", 1),
            PublishedKey("feature-ipv6-csum-offload", 1), PublishedKey("feature-rx-copy", 1),
            PublishedKey("feature-rx-flip", 0), PublishedKey("feature-split-event-channels", splitsEvents ? 1 : 0),
            PublishedKey("multi-queue-max-queues", queues), PublishedKey("feature-ctrl-ring", 1),
            PublishedKey("feature-multicast-control", 1), PublishedKey("feature-dynamic-multicast-control", 1),
            PublishedKey("feature-xdp-headroom", 1),
        ]
    }
}

/// What a frontend's keys amount to.
public struct NetConnection: Equatable, Sendable {
    /// One queue pair's rings and event channels.
    public struct Rings: Equatable, Sendable {
        public let transmit: GrantReference
        public let receive: GrantReference
        public let transmitPort: EventPort
        /// The same as the other where one event channel serves both.
        public let receivePort: EventPort

        public var isSplit: Bool { transmitPort != receivePort }

        public init(transmit: GrantReference, receive: GrantReference, transmitPort: EventPort, receivePort: EventPort)
        {
            self.transmit = transmit
            self.receive = receive
            self.transmitPort = transmitPort
            self.receivePort = receivePort
        }
    }

    /// The ring on which the guest sets how packets are hashed and steered.
    public struct Control: Equatable, Sendable {
        public let ring: GrantReference
        public let port: EventPort
    }

    public let queues: [Rings]
    public let control: Control?
    /// What the guest takes unfinished.
    public let offloads: GuestOffloads
    /// Packets to the guest may take more than one slot.
    public let scatters: Bool
    /// The guest sends an event when it has put up receive buffers.
    public let notifiesReceive: Bool
}

// Which keys are read.
extension NetConnection {
    static let fixedKeys = [
        "multi-queue-num-queues", "tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx",
        "request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6",
        "feature-no-csum-offload", "feature-ipv6-csum-offload", "ctrl-ring-ref", "event-channel-ctrl",
    ]

    static func ringKeys(after known: NodeValues, _ offer: NetOffer) -> [String] {
        guard let count = try? queueCount(KeyReader(known), offer), count > 1 else { return [] }
        return (0..<count).flatMap { queue in
            ["tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx"]
                .map { "queue-\(queue)/\($0)" }
        }
    }

    private static func queueCount(_ reader: KeyReader, _ offer: NetOffer) throws(KeyRefusal) -> Int {
        Int(try reader.number("multi-queue-num-queues", in: 1...UInt64(offer.queues), ifMissing: 1))
    }
}

// What they mean.
extension NetConnection {
    /// Judges everything that a frontend said.
    public static func negotiate(_ keys: NodeValues, _ offer: NetOffer) throws(KeyRefusal) -> NetConnection {
        let reader = KeyReader(keys)
        // Page flipping is gone from every backend; a frontend that does not ask for copies expects it.
        guard try reader.flag("request-rx-copy", ifMissing: false) else {
            throw KeyRefusal("request-rx-copy", keys["request-rx-copy"], "must be 1: pages are not flipped")
        }
        let count = try queueCount(reader, offer)
        var queues: [Rings] = []
        for queue in 0..<count { queues.append(try rings(reader, count > 1 ? "queue-\(queue)/" : "")) }
        let control = try control(reader)
        try checkDistinct(queues, control)
        let scatters = try reader.flag("feature-sg", ifMissing: false)
        return NetConnection(
            queues: queues, control: control, offloads: try offloads(reader, scatters: scatters), scatters: scatters,
            notifiesReceive: try reader.flag("feature-rx-notify", ifMissing: false))
    }

    private static func rings(_ reader: KeyReader, _ prefix: String) throws(KeyRefusal) -> Rings {
        let names = (prefix + "event-channel-tx", prefix + "event-channel-rx")
        // One alone is as good as none, where there is a channel for both (as with xen-netback).
        let (isFirst, isSecond) = (reader.keys[names.0] != nil, reader.keys[names.1] != nil)
        let hasOne = reader.keys[prefix + "event-channel"] != nil
        let isSplit = isFirst && isSecond || (isFirst || isSecond) && !hasOne
        return Rings(
            transmit: try reference(reader, prefix + "tx-ring-ref"),
            receive: try reference(reader, prefix + "rx-ring-ref"),
            transmitPort: try port(reader, isSplit ? names.0 : prefix + "event-channel"),
            receivePort: try port(reader, isSplit ? names.1 : prefix + "event-channel"))
    }

    private static func reference(_ reader: KeyReader, _ key: String) throws(KeyRefusal) -> GrantReference {
        GrantReference(UInt32(truncatingIfNeeded: try reader.number(key, in: 0...UInt64(UInt32.max))))
    }

    /// FIFO event channels number up to 2^17 (xen/event_channel.h); 0 is never a valid port.
    private static func port(_ reader: KeyReader, _ key: String) throws(KeyRefusal) -> EventPort {
        EventPort(UInt32(truncatingIfNeeded: try reader.number(key, in: 1...0x1_FFFF)))
    }

    /// A channel without a ring says nothing (xen-netback ignores it as well).
    private static func control(_ reader: KeyReader) throws(KeyRefusal) -> Control? {
        guard reader.keys["ctrl-ring-ref"] != nil else { return nil }
        return Control(ring: try reference(reader, "ctrl-ring-ref"), port: try port(reader, "event-channel-ctrl"))
    }

    private static func checkDistinct(_ queues: [Rings], _ control: Control?) throws(KeyRefusal) {
        let references = queues.flatMap { [$0.transmit, $0.receive] } + (control.map { [$0.ring] } ?? [])
        let ports =
            queues.flatMap { $0.isSplit ? [$0.transmitPort, $0.receivePort] : [$0.transmitPort] }
            + (control.map { [$0.port] } ?? [])
        guard Set(references).count == references.count, Set(ports).count == ports.count else {
            throw KeyRefusal("multi-queue-num-queues", nil, "two rings share a page or an event channel")
        }
    }

    /// Segmentation needs sums to be left out and packets of several slots.
    private static func offloads(_ reader: KeyReader, scatters: Bool) throws(KeyRefusal) -> GuestOffloads {
        let v4 = try !reader.flag("feature-no-csum-offload", ifMissing: false)
        let v6 = try reader.flag("feature-ipv6-csum-offload", ifMissing: false)
        let largeV4 = try reader.flag("feature-gso-tcpv4", ifMissing: false)
        let largeV6 = try reader.flag("feature-gso-tcpv6", ifMissing: false)
        return GuestOffloads(
            checksumV4: v4, checksumV6: v6, segmentationV4: largeV4 && v4 && scatters,
            segmentationV6: largeV6 && v6 && scatters)
    }
}

/// What a frontend may change while it is connected.
public struct LiveSettings: Equatable, Sendable {
    /// Frames to groups that are not on its multicast list are kept back.
    public let filtersMulticast: Bool
    /// Bytes at the beginning of each packet's first page that are left to it.
    public let headroom: Int

    static let keys = ["request-multicast-control", "xdp-headroom"]

    /// What is left of the first page holds an Ethernet header at least: frontends take no less. Who asks for more gets this.
    static let largestHeadroom: UInt64 = 4096 - 14

    public init(_ keys: NodeValues) throws(KeyRefusal) {
        let reader = KeyReader(keys)
        filtersMulticast = try reader.flag("request-multicast-control", ifMissing: false)
        let wish = try reader.number("xdp-headroom", in: 0...UInt64(UInt32.max), ifMissing: 0)
        headroom = Int(min(wish, Self.largestHeadroom))
    }
}
