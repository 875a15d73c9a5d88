internal import Descriptors
internal import SharedRing
internal import XenWire
internal import Xenbus
internal import Xenstore

/// What xenstore says of a queue pair.
struct PublishedQueue {
    let transmit: GrantReference
    let receive: GrantReference
    let transmitPort: EventPort
    let receivePort: EventPort
}

/// A netfront: connects as Linux' does (talk_to_netback, xennet_connect), with the same keys.
final class NetFrontend {
    private let bus: FrontendBus

    /// - Parameters:
    ///   - xenstore: the domain's own connection, used by this object only.
    ///   - path: the frontend's directory.
    init(_ xenstore: XenstoreClient, at path: XenstorePath, _ patience: XenstorePatience) throws(LoopbackError) {
        bus = try FrontendBus(xenstore, at: path, patience)
    }

    /// Waits until the backend says what it offers.
    func awaitOffer() throws(LoopbackError) {
        try bus.awaitBackend([.initWait])
    }

    /// Queues that the backend serves at most.
    func maximumQueues() throws(LoopbackError) -> Int {
        Int(clamping: try bus.readNumbers(["multi-queue-max-queues"])[0] ?? 1)
    }

    /// Tells the backend of the queues and waits until it serves them.
    func connect(_ queues: [PublishedQueue]) throws(LoopbackError) {
        try bus.write(Self.keys(queues))
        try bus.switchState(.connected)
        try bus.awaitBackend([.connected])
    }

    /// What netfront writes, in its order.
    static func keys(_ queues: [PublishedQueue]) -> [(String, String)] {
        var keys: [(String, String)] = []
        if queues.count > 1 { keys.append(("multi-queue-num-queues", "\(queues.count)")) }
        for (index, queue) in queues.enumerated() {
            let prefix = queues.count > 1 ? "queue-\(index)/" : ""
            keys += [
                ("\(prefix)tx-ring-ref", "\(queue.transmit)"), ("\(prefix)rx-ring-ref", "\(queue.receive)"),
                ("\(prefix)event-channel-tx", "\(queue.transmitPort)"),
                ("\(prefix)event-channel-rx", "\(queue.receivePort)"),
            ]
        }
        return keys + [
            ("request-rx-copy", "1"), ("feature-rx-notify", "1"), ("feature-sg", "1"), ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"), ("feature-ipv6-csum-offload", "1"),
        ]
    }

    /// Closes from the guest's side; the backend has let go of everything then.
    func close() throws(LoopbackError) {
        try bus.switchState(.closing)
        try bus.awaitBackend([.closing, .closed])
        try bus.switchState(.closed)
        try bus.awaitBackend([.closed])
    }
}
