internal import CLinux
public import Descriptors
internal import Synchronization

/// What the queues of one device have in common.
public final class DeviceShared: Sendable {
    private let sectors: Atomic<UInt64>
    private let attentionEvent: OwnedDescriptor

    /// Where writes claim their sectors; nil where nothing needs to hold across operations.
    let extents: DeviceExtents?
    /// Who executes discards; nil where none are offered.
    let discards: (any DiscardExecutor)?

    /// For a device of `capacity` 512-byte sectors.
    public init(
        capacity: UInt64, extents: DeviceExtents? = nil, discards: (any DiscardExecutor)? = nil
    ) throws(Fault) {
        sectors = Atomic(capacity)
        self.extents = extents
        self.discards = discards
        attentionEvent = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
    }

    /// 512-byte sectors of the device; may change while it is in use.
    public var capacity: UInt64 {
        get { sectors.load(ordering: .relaxed) }
        set { sectors.store(newValue, ordering: .relaxed) }
    }

    /// Readable after a queue's condition has changed; read it to reset it.
    public var attention: Int32 { attentionEvent.number }

    /// Tells the control thread that a queue's condition has changed.
    func callForAttention() { linux_eventfd_signal(attentionEvent.number) }
}
