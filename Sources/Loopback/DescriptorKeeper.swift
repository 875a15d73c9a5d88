internal import CLinux
public import Descriptors
internal import Glibc

/// A descriptor store and the thread that serves it.
public final class DescriptorKeeper: Sendable {
    public let store: DescriptorStore
    private let thread: JoinableThread
    private let end: OwnedDescriptor

    /// - Parameter directory: where its socket is made, `notify`.
    public init(in directory: String) throws(Fault) {
        store = try DescriptorStore(at: "\(directory)/notify")
        end = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC)), "create an eventfd")
        thread = try JoinableThread(name: "notify") { [store, end = end.number] in
            // What cannot be polled is not kept.
            _ = try? store.serve(until: [end])
        }
    }

    /// Once only.
    public func stop() {
        linux_eventfd_signal(end.number)
        thread.join()
    }
}
