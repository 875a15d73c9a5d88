internal import CLinux
internal import Descriptors
internal import Glibc
internal import Synchronization

/// One connection of a server loop, used from the loop's thread only.
protocol ServerSession: AnyObject {
    /// Polled for input.
    var descriptor: Int32 { get }
    /// Handles what can be read; false when the connection is over.
    func serve() -> Bool
    /// Releases what the other end held; called once.
    func end()
}

/// A thread that accepts connections on a message socket and serves them in turn with poll(2).
final class ServerLoop: Sendable {
    private let listener: OwnedDescriptor
    private let wake: EventDescriptor
    private let path: String
    private let thread = Mutex<JoinableThread?>(nil)

    init(listeningAt path: String) throws(Fault) {
        // The path is only read.
        listener = unsafe try OwnedDescriptor(linux_listen_seqpacket(path), "listen on \(path)")
        wake = try EventDescriptor(isWaitedFor: false)
        self.path = path
    }

    func start(_ makeSession: @escaping @Sendable (consuming OwnedDescriptor) -> any ServerSession) throws(Fault) {
        let worker = try JoinableThread(name: "hypervisor") { [self] in run(makeSession) }
        thread.withLock { $0 = worker }
    }

    /// Ends all sessions and the thread, and removes the socket.
    func stop() {
        wake.send()
        thread.withLock { $0.take() }?.join()
        // The path is only read.
        unsafe _ = unlink(path)
    }

    private func run(_ makeSession: (consuming OwnedDescriptor) -> any ServerSession) {
        var sessions: [any ServerSession] = []
        while true {
            let ready = poll([wake.number, listener.number] + sessions.map(\.descriptor))
            if ready.contains(0) { break }
            let ended = ready.compactMap { $0 >= 2 && !sessions[$0 - 2].serve() ? $0 - 2 : nil }
            for index in ended.reversed() { sessions.remove(at: index).end() }
            if ready.contains(1), let socket = accept() { sessions.append(makeSession(socket)) }
        }
        for session in sessions { session.end() }
    }

    private func accept() -> OwnedDescriptor? {
        let number = linux_unix_accept(listener.number)
        return number < 0 ? nil : OwnedDescriptor(owning: number)
    }

    /// Waits for input and returns which of the descriptors have it (or have ended).
    private func poll(_ descriptors: [Int32]) -> [Int] {
        var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        // The array's own count bounds the call; an error leaves nothing ready.
        let count = unsafe Glibc.poll(&polled, nfds_t(polled.count), -1)
        guard count > 0 else { return [] }
        return polled.indices.filter { polled[$0].revents != 0 }
    }
}
