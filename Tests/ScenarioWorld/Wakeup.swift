import CLinux
package import Descriptors

/// The eventfd through which other threads call a queue's.
package final class Wakeup {
    private let event: OwnedDescriptor

    package init() throws(Fault) {
        event = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
    }

    package var descriptor: Int32 { event.number }

    /// Takes what is pending; true if there was something.
    package func take() -> Bool { linux_eventfd_take(event.number) > 0 }
}
