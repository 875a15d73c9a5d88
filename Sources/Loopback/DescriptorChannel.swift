internal import CLinux
internal import Descriptors
internal import Glibc
internal import SharedRing

/// Events as an eventfd, for ends in different processes.
final class EventDescriptor: EventSignal {
    private let owned: OwnedDescriptor

    private let isBlocking: Bool

    init(isWaitedFor: Bool) throws(Fault) {
        let number = eventfd(0, Int32(isWaitedFor ? EFD_CLOEXEC : EFD_CLOEXEC | EFD_NONBLOCK))
        guard number >= 0 else { throw Fault("eventfd", errno: errno) }
        owned = OwnedDescriptor(owning: number)
        isBlocking = isWaitedFor
    }

    /// A descriptor that another process made, not one that is waited for.
    init(owning descriptor: consuming OwnedDescriptor) {
        owned = descriptor
        isBlocking = false
    }

    var number: Int32 { owned.number }

    func send() {
        // Fails only when the counter is full, and then an event is pending anyway (eventfd(2)).
        linux_eventfd_signal(owned.number)
    }

    func clear() { _ = take() }

    /// True if an event was pending.
    func take() -> Bool {
        if isBlocking, linux_poll_one(owned.number, Int16(POLLIN), 0) <= 0 { return false }
        return wait()
    }

    /// Waits for an event; false after an interruption.
    func wait() -> Bool {
        var count: eventfd_t = 0
        // Fills `count`. Where the descriptor does not block, it was seen readable.
        return unsafe eventfd_read(owned.number, &count) == 0
    }
}

/// Events for which a thread of its own can sleep.
protocol BlockingEvents: Sendable {
    /// Takes an event; waits while there is none.
    func wait()
    /// Makes an event pending here, as if the other end had sent it.
    func wake()
}

/// An event channel end whose events are eventfds.
final class DescriptorChannel: EventChannel, BlockingEvents, Sendable {
    private let own: EventDescriptor
    private let peer: EventDescriptor
    // What keeps the port open: it closes when this object goes.
    private let lease: any AnyObject & Sendable

    init(own: EventDescriptor, peer: EventDescriptor, lease: any AnyObject & Sendable) {
        self.own = own
        self.peer = peer
        self.lease = lease
    }

    var descriptor: Int32 { own.number }
    func notify() { peer.send() }
    func drain() -> Bool { own.take() }
    // An eventfd needs no unmasking.
    func unmask() {}

    func wait() { _ = own.wait() }
    func wake() { own.send() }
}

/// Closes a port of a model hypervisor when it goes.
final class PortLease: Sendable {
    private let close: @Sendable () -> Void
    init(close: @escaping @Sendable () -> Void) { self.close = close }
    deinit { close() }
}
