import CLinux
import Descriptors

/// The eventfd through which other threads call a queue's.
final class Wakeup {
    private let event: OwnedDescriptor

    init() throws(Fault) {
        event = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
    }

    var descriptor: Int32 { event.number }

    /// Takes what is pending; true if there was something.
    func take() -> Bool { linux_eventfd_take(event.number) > 0 }
}
