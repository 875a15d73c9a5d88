internal import CLinux
internal import Descriptors
internal import Glibc
internal import SharedRing

/// Events as an eventfd, for ends in different processes.
final class EventDescriptor: EventSignal {
    private let owned: OwnedDescriptor

    init() throws(Fault) {
        let number = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard number >= 0 else { throw Fault("eventfd", errno: errno) }
        owned = OwnedDescriptor(owning: number)
    }

    init(owning descriptor: consuming OwnedDescriptor) {
        owned = descriptor
    }

    var number: Int32 { owned.number }

    func send() {
        // Fails only when the counter is full, and then an event is pending anyway (eventfd(2)).
        _ = eventfd_write(owned.number, 1)
    }

    func clear() { _ = take() }

    /// True if an event was pending.
    func take() -> Bool {
        var count: eventfd_t = 0
        // The descriptor is non-blocking; eventfd_read fills `count`.
        return unsafe eventfd_read(owned.number, &count) == 0
    }
}

/// An event channel end whose events are eventfds.
final class DescriptorChannel: EventChannel, Sendable {
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
}

/// Closes a port of a model hypervisor when it goes.
final class PortLease: Sendable {
    private let close: @Sendable () -> Void
    init(close: @escaping @Sendable () -> Void) { self.close = close }
    deinit { close() }
}
