internal import Descriptors
internal import Glibc
public import XenWire
public import Xenstore

/// The model's xenstore for clients in the same thread: no sockets and no waiting, so that a run is determined by its
/// inputs alone.
public final class InProcessXenstore {
    private var model: XenstoreModel
    private var inboxes: [XenstoreConnectionID: [UInt8]] = [:]

    public init(quota: XenstoreQuota = XenstoreQuota()) {
        model = XenstoreModel(quota: quota)
    }

    /// A connection of a domain; ended with the transport's life.
    public func connect(_ domain: DomainID) -> any XenstoreTransport {
        let connection = model.connect(domain)
        inboxes[connection] = []
        return InProcessTransport(self, connection)
    }

    /// A client of a domain.
    public func client(_ domain: DomainID) throws(XenstoreError) -> XenstoreClient {
        var configuration = XenstoreClient.Configuration()
        // Nobody else runs during a pause, so that none would help.
        configuration.retryPauseMicroseconds = 0
        return try XenstoreClient(configuration: configuration) { [self] () throws(Fault) in connect(domain) }
    }

    /// A domain's death.
    public func releaseDomain(_ domain: DomainID) {
        deliver(model.releaseDomain(domain))
    }

    /// A domain shut down or crashed, but still exists.
    public func announceShutdown() {
        deliver(model.announceShutdown())
    }

    fileprivate func serve(_ frame: XenstoreFrame, from connection: XenstoreConnectionID) {
        deliver(model.handle(frame, from: connection))
    }

    fileprivate func disconnect(_ connection: XenstoreConnectionID) {
        model.disconnect(connection)
        inboxes[connection] = nil
    }

    /// What waits for a client; nil when its domain is gone and everything was read.
    fileprivate func takeInbox(_ connection: XenstoreConnectionID, atMost count: Int) -> [UInt8]? {
        let bytes = inboxes[connection]?.prefix(count) ?? []
        inboxes[connection]?.removeFirst(bytes.count)
        return bytes.isEmpty && !model.isConnected(connection) ? nil : Array(bytes)
    }

    fileprivate func hasInput(_ connection: XenstoreConnectionID) -> Bool {
        inboxes[connection]?.isEmpty == false || !model.isConnected(connection)
    }

    private func deliver(_ deliveries: [XenstoreDelivery]) {
        for delivery in deliveries { inboxes[delivery.connection]? += delivery.frame.encoded }
    }
}

private final class InProcessTransport: XenstoreTransport {
    private let server: InProcessXenstore
    private let connection: XenstoreConnectionID
    private var decoder = XenstoreFrameDecoder(maximumPayload: XenstoreFrame.maximumPayload)

    init(_ server: InProcessXenstore, _ connection: XenstoreConnectionID) {
        self.server = server
        self.connection = connection
    }

    deinit {
        server.disconnect(connection)
    }

    /// There is none: the owner's loop asks the client whether there are pending events.
    var descriptor: Int32 { -1 }
    var maximumPayload: Int { XenstoreFrame.maximumPayload }

    func read(atMost count: Int) throws(Fault) -> [UInt8]? {
        guard let bytes = server.takeInbox(connection, atMost: count) else { return [] }
        return bytes.isEmpty ? nil : bytes
    }

    func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int {
        decoder.append(Array(bytes))
        do {
            while let frame = try decoder.next() { server.serve(frame, from: connection) }
        } catch {
            throw Fault("write xenstore", errno: EPIPE)
        }
        return bytes.count
    }

    /// Every answer is there as soon as its request was written; what is not there now will not come.
    func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool {
        server.hasInput(connection)
    }
}
