internal import CLinux
public import Descriptors
internal import Glibc
public import XenWire

/// A connection to xenstore, used from one thread.
///
/// Requests are synchronous and have a deadline. Watch events may arrive at any moment, during a request too; they wait
/// in a set with one place per watch until `pendingEvents` takes them. So a loop takes the pending events *before* it
/// sleeps in poll(2) on `descriptor`, and calls `processReadable` when that is readable.
///
/// A connection that failed stays closed (`isConnected`, every request throws `connectionLost`) until `reconnect`.
public final class XenstoreClient: RequestCarrier {
    /// Bounds of what the client does on its own.
    public struct Configuration: Sendable {
        /// For one call, all requests of a pipelined one together.
        public var deadlineMilliseconds: UInt32 = 10_000
        public var transactionAttempts = 32
        /// The first pause between two attempts at a transaction; zero repeats at once.
        public var retryPauseMicroseconds: UInt32 = 500

        public init() {}
    }

    public let configuration: Configuration
    private let connect: () throws(Fault) -> any XenstoreTransport
    private var connection: Connection?
    private var lastRequest: UInt32 = 0
    var watches = WatchTable()

    /// Connects; `connect` is called again by every `reconnect`.
    public init(
        configuration: Configuration = Configuration(), connect: @escaping () throws(Fault) -> any XenstoreTransport
    ) throws(XenstoreError) {
        self.configuration = configuration
        self.connect = connect
        try open()
    }

    /// Connects to a xenstored's unix socket.
    public convenience init(
        socket path: String, configuration: Configuration = Configuration()
    ) throws(XenstoreError) {
        try self.init(configuration: configuration) { () throws(Fault) in try SocketTransport(path: path) }
    }

    /// For poll(2); -1, which poll(2) ignores, while there is no connection.
    public var descriptor: Int32 { connection?.transport.descriptor ?? -1 }
    public var isConnected: Bool { connection != nil }

    /// Makes a new connection and registers all watches again; each of them is then pending, so that everything is read
    /// again. On an error the client is disconnected, its watches are kept, and `reconnect` may be called again.
    public func reconnect() throws(XenstoreError) {
        connection = nil
        try open()
        do throws(XenstoreError) {
            for watch in watches.registered { try register(watch) }
        } catch {
            throw lose(error)
        }
        watches.markAllPending()
    }

    private func open() throws(XenstoreError) {
        do {
            connection = Connection(try connect())
        } catch {
            throw .connectionLost(error)
        }
    }
}

// Requests and replies.
extension XenstoreClient {
    func carry(_ requests: [XenstoreRequest]) throws(XenstoreError) -> [Reply] {
        try exchange(requests, transaction: 0)
    }

    /// Sends requests with a bounded number in flight, and returns the replies in the requests' order.
    func exchange(_ requests: [XenstoreRequest], transaction: UInt32) throws(XenstoreError) -> [Reply] {
        guard let connection else { throw .connectionLost(Fault("xenstore", errno: ENOTCONN)) }
        for request in requests { try connection.check(request) }
        do throws(XenstoreError) {
            return try exchange(requests, transaction, over: connection)
        } catch {
            throw lose(error)
        }
    }

    private func exchange(
        _ requests: [XenstoreRequest], _ transaction: UInt32, over connection: Connection
    ) throws(XenstoreError) -> [Reply] {
        let deadline = Deadline(milliseconds: configuration.deadlineMilliseconds)
        let window = connection.transport.requestsInFlight
        var outstanding = Outstanding(requests)
        while !outstanding.isDone {
            while let index = outstanding.next(window: window) {
                let id = newRequestID()
                outstanding.sent(index, id: id)
                connection.enqueue(requests[index], id: id, transaction: transaction)
            }
            try connection.flush()
            try receive(from: connection) { frame throws(XenstoreError) in try outstanding.answer(frame) }
            if !outstanding.isDone, !outstanding.canSend(window: window) {
                try waitForPeer(connection, deadline, outstanding)
            }
        }
        return outstanding.replies
    }

    private func waitForPeer(
        _ connection: Connection, _ deadline: Deadline, _ outstanding: Outstanding
    ) throws(XenstoreError) {
        let left = deadline.millisecondsLeft
        guard left > 0, try connection.wait(milliseconds: left) else {
            throw .deadlinePassed(outstanding.description)
        }
    }

    /// Takes one buffer's worth of frames: events to the watches, everything else to `reply`.
    private func receive(
        from connection: Connection, reply: (XenstoreFrame) throws(XenstoreError) -> Void
    ) throws(XenstoreError) {
        _ = try connection.fill()
        while let frame = try connection.nextFrame() {
            if frame.operation == .watchEvent {
                try watches.note(frame.payload)
            } else {
                try reply(frame)
            }
        }
    }

    private func newRequestID() -> UInt32 {
        lastRequest &+= 1
        return lastRequest
    }

    /// Closes the connection, if the error says that it is of no use any more.
    func lose(_ error: XenstoreError) -> XenstoreError {
        connection = nil
        watches.forgetPending()
        return error
    }
}

// Watches.
extension XenstoreClient {
    /// Watches a node and all below it. The watch is pending at once, and then after every change.
    public func watch(_ path: XenstorePath) throws(XenstoreError) -> XenstoreWatch {
        let watch = watches.add(path)
        do throws(XenstoreError) {
            try register(watch)
        } catch {
            watches.remove(watch)
            throw error
        }
        return watch
    }

    /// Ends a watch; it will not be pending any more. A watch that has ended already is no error.
    public func unwatch(_ watch: XenstoreWatch) throws(XenstoreError) {
        guard let (path, token) = watches.remove(watch) else { return }
        _ = try carryIfPresent(.unwatch(path, token: token))
    }

    /// The watches that fired since the last call, each once, in the order in which they fired first. An event says
    /// that something at or below the watched path may have changed: read it again.
    public func pendingEvents() -> [XenstoreWatch] { watches.takePending().map(\.watch) }

    /// The same, with the children of the watched node that have changed.
    public func pendingChanges() -> [XenstoreChange] { watches.takePending() }

    public var hasPendingEvents: Bool { watches.hasPending }

    /// Takes what has arrived, at most 64 KiB of it, without waiting. Call it when `descriptor` is readable.
    public func processReadable() throws(XenstoreError) {
        guard let connection else { throw .connectionLost(Fault("xenstore", errno: ENOTCONN)) }
        do throws(XenstoreError) {
            try receive(from: connection) { frame throws(XenstoreError) in
                throw .protocolViolation("answer \(frame.request) without a request")
            }
        } catch {
            throw lose(error)
        }
    }

    private func register(_ watch: XenstoreWatch) throws(XenstoreError) {
        guard let (path, token) = watches.renewToken(watch) else { return }
        _ = try carry(.watch(path, token: token))
    }
}

// Domains: what a toolstack does.
extension XenstoreClient {
    /// Tells the server about a new domain; `frame` and `port` are its xenstore ring's.
    public func introduce(_ domain: DomainID, frame: UInt64, port: EventPort) throws(XenstoreError) {
        _ = try carry(.introduce(domain, frame: frame, port: port))
    }

    /// Tells the server that a domain is gone.
    public func release(_ domain: DomainID) throws(XenstoreError) {
        _ = try carry(.release(domain))
    }

    /// The domain that this connection belongs to; nil if nobody has noted it, as may be in domain 0.
    public func ownDomain() throws(XenstoreError) -> DomainID? {
        guard let value = try carryIfPresent(.ownDomain()) else { return nil }
        guard let number = XenstoreValue(value).unsigned(atMost: UInt64(UInt16.max)) else {
            throw .protocolViolation("domid is no number")
        }
        return DomainID(UInt16(truncatingIfNeeded: number))
    }

    public func isIntroduced(_ domain: DomainID) throws(XenstoreError) -> Bool {
        try carry(.isDomainIntroduced(domain)).first == UInt8(ascii: "T")
    }
}
