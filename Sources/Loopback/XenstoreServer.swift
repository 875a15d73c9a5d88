internal import CLinux
public import Descriptors
internal import Glibc
internal import Synchronization
public import XenWire
internal import Xenstore

/// The model's xenstore behind unix sockets, served by a thread of its own.
///
/// `xenstored.socket` in the directory is dom0's. `xenstored-<domid>.socket` is an unprivileged domain's; it exists from
/// the domain's introduction to its release, as a domain's xenstore ring does.
public final class XenstoreServer: Sendable {
    private let stopEvent: OwnedDescriptor
    /// Nil once it was joined.
    private let thread: Mutex<JoinableThread?>

    /// Listens and starts serving.
    public init(directory: String, quota: XenstoreQuota = XenstoreQuota()) throws(Fault) {
        stopEvent = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC)), "eventfd")
        let loop = try XenstoreServerLoop(directory: directory, quota: quota, stopEvent: stopEvent.number)
        thread = Mutex(try JoinableThread(name: "xenstored") { loop.run() })
    }

    /// The socket of a domain in `directory`; dom0's is the privileged one.
    public static func socketPath(in directory: String, of domain: DomainID) -> String {
        domain.isPrivileged ? "\(directory)/xenstored.socket" : "\(directory)/xenstored-\(domain).socket"
    }

    /// Closes all connections and sockets and waits for the thread. Does nothing the second time.
    public func stop() {
        linux_eventfd_signal(stopEvent.number)
        thread.withLock { running in
            running?.join()
            running = nil
        }
    }

    deinit {
        stop()
    }
}

/// All state of the server; belongs to its thread.
private final class XenstoreServerLoop: @unchecked Sendable {
    private let directory: String
    private let stopEvent: Int32
    private var model: XenstoreModel
    private var listeners: [DomainID: Listener] = [:]
    private var clients: [XenstoreConnectionID: Client] = [:]

    /// Connections that may wait to be accepted.
    private static let backlog: Int32 = 64

    init(directory: String, quota: XenstoreQuota, stopEvent: Int32) throws(Fault) {
        self.directory = directory
        self.stopEvent = stopEvent
        model = XenstoreModel(quota: quota)
        listeners[.privileged] = try Listener(path: path(.privileged), backlog: XenstoreServerLoop.backlog)
    }

    func run() {
        while waitForWork() {
            for (domain, listener) in listeners { accept(from: listener, domain) }
            for (id, client) in clients { serve(client, id) }
            followDomains()
            for (id, client) in clients where !client.flush() { close(id) }
        }
        for domain in listeners.keys { stopListening(domain) }
        clients = [:]
    }

    private func path(_ domain: DomainID) -> String { XenstoreServer.socketPath(in: directory, of: domain) }

    /// Sleeps until there is something to do; false when it is time to stop.
    private func waitForWork() -> Bool {
        var entries = [pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0)]
        entries += listeners.values.map { pollfd(fd: $0.socket.number, events: Int16(POLLIN), revents: 0) }
        entries += clients.values.map { pollfd(fd: $0.socket.number, events: $0.awaited, revents: 0) }
        // The kernel writes the array's own elements.
        _ = unsafe poll(&entries, nfds_t(entries.count), -1)
        return entries[0].revents == 0
    }

    private func accept(from listener: Listener, _ domain: DomainID) {
        while let socket = listener.accept() {
            clients[model.connect(domain)] = Client(socket)
        }
    }

    private func serve(_ client: Client, _ id: XenstoreConnectionID) {
        do throws(Client.Ended) {
            for frame in try client.receive() { deliver(model.handle(frame, from: id)) }
        } catch {
            close(id)
        }
    }

    private func deliver(_ deliveries: [XenstoreDelivery]) {
        for delivery in deliveries { clients[delivery.connection]?.enqueue(delivery.frame) }
    }

    private func close(_ id: XenstoreConnectionID) {
        model.disconnect(id)
        clients[id] = nil
    }

    /// Sockets come and go with the domains that were introduced and released.
    private func followDomains() {
        for domain in model.domains where listeners[domain] == nil {
            listeners[domain] = try? Listener(path: path(domain), backlog: XenstoreServerLoop.backlog)
        }
        for domain in listeners.keys where !model.domains.contains(domain) { stopListening(domain) }
        for id in clients.keys where !model.isConnected(id) { clients[id] = nil }
    }

    private func stopListening(_ domain: DomainID) {
        listeners[domain] = nil
        // The string lives during the call.
        _ = unsafe unlink(path(domain))
    }
}

private final class Listener {
    let socket: OwnedDescriptor

    init(path: String, backlog: Int32) throws(Fault) {
        // The string lives during the call.
        socket = try OwnedDescriptor(unsafe linux_unix_listen(path, backlog), "listen on \(path)")
    }

    func accept() -> Int32? {
        let result = linux_unix_accept(socket.number)
        return result < 0 ? nil : result
    }
}

/// One client's socket and the bytes on their way.
private final class Client {
    /// The client closed its end, sent a frame that cannot be one, or does not read its answers.
    struct Ended: Error {}

    let socket: OwnedDescriptor
    private var decoder = XenstoreFrameDecoder(maximumPayload: XenstoreFrame.maximumPayload)
    private var unsent: [UInt8] = []

    /// What a client may leave unread. More than one full answer to each of many pipelined requests.
    private static let maximumUnsent = 4 << 20
    private static let readSize = 64 * 1024

    init(_ socket: Int32) {
        self.socket = OwnedDescriptor(owning: socket)
    }

    var awaited: Int16 { Int16(POLLIN) | (unsent.isEmpty ? 0 : Int16(POLLOUT)) }

    /// The frames that have arrived, from at most one buffer of bytes.
    func receive() throws(Ended) -> [XenstoreFrame] {
        guard let bytes = try read() else { return [] }
        decoder.append(bytes)
        var frames: [XenstoreFrame] = []
        do {
            while let frame = try decoder.next() { frames.append(frame) }
        } catch {
            throw Ended()
        }
        return frames
    }

    func enqueue(_ frame: XenstoreFrame) {
        unsent += frame.encoded
    }

    /// Sends what there is room for; false if the client is gone or too far behind.
    func flush() -> Bool {
        while !unsent.isEmpty {
            let descriptor = socket.number
            // The kernel reads the array during the call only.
            let sent = unsafe unsent.withUnsafeBytes { buffer in
                unsafe linux_socket_send(descriptor, buffer.baseAddress, buffer.count)
            }
            if sent == -Int(EAGAIN) { return unsent.count <= Client.maximumUnsent }
            guard sent > 0 else { return false }
            unsent.removeFirst(sent)
        }
        return true
    }

    private func read() throws(Ended) -> [UInt8]? {
        let descriptor = socket.number
        var result = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: Client.readSize) { buffer, initialized in
            // The kernel writes at most the buffer's length and says how much.
            result = unsafe linux_socket_receive(descriptor, buffer.baseAddress, buffer.count)
            initialized = max(result, 0)
        }
        if result == -Int(EAGAIN) { return nil }
        guard result > 0 else { throw Ended() }
        return bytes
    }
}
