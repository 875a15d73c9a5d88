internal import CLinux
internal import Glibc
internal import Synchronization

/// A thread with a name and an owner who waits for its end.
public final class JoinableThread: Sendable {
    private let handle: pthread_t

    /// Starts `body` on a new thread.
    ///
    /// - Parameter name: shown by ps and top; the kernel keeps 15 bytes, so the last 15 are given.
    public init(name: String, _ body: @escaping @Sendable () -> Void) throws(Fault) {
        let short = String(name.suffix(15))
        let named = Body {
            unsafe linux_set_thread_name(short)
            body()
        }
        let box = unsafe Unmanaged.passRetained(named)
        var handle = pthread_t()
        // The box is passed once and taken once, by the new thread or, without one, right here.
        let code = unsafe pthread_create(&handle, nil, Body.run, box.toOpaque())
        guard code == 0 else {
            unsafe box.release()
            throw Fault("start thread \(name)", errno: code)
        }
        self.handle = handle
    }

    /// Waits until the thread has ended. Once only.
    public func join() { pthread_join(handle, nil) }

    private final class Body: Sendable {
        private let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }

        static let run: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
            if let argument = unsafe argument {
                unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().body()
            }
            return nil
        }
    }
}

/// One value from one thread to another, once.
public final class Handover<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let given: OwnedDescriptor

    /// Nothing given yet.
    public init() throws(Fault) {
        given = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC)), "create an eventfd")
    }

    /// Gives the value.
    public func give(_ new: Value) {
        value.withLock { $0 = new }
        linux_eventfd_signal(given.number)
    }

    /// Waits until the value has been given.
    public func take() -> Value {
        while true {
            _ = linux_eventfd_take(given.number)  // blocks: the descriptor is not O_NONBLOCK
            if let taken = value.withLock({ $0 }) { return taken }
        }
    }
}
