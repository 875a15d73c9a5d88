internal import CLinux
public import Descriptors
internal import Synchronization

/// What the queues of one device have in common.
public final class DeviceShared: Sendable {
    private let sectors: Atomic<UInt64>
    private let attentionEvent: OwnedDescriptor

    /// Which sectors are being changed.
    let claims: WriteClaims
    /// Queues that have not yet done again what may have changed the volume before they were killed.
    private let replaying: Atomic<Int>
    /// Who executes discards; nil where none are offered.
    let discards: (any DiscardExecutor)?

    /// For a device of `capacity` 512-byte sectors.
    ///
    /// - Parameters:
    ///   - unit: bytes that the volume changes at once: its physical block, or more.
    ///   - recovers: each of its queues has a backlog, be it empty.
    public init(
        capacity: UInt64, unit: UInt32 = 512, queues: Int = 1, recovers: Bool = false,
        discards: (any DiscardExecutor)? = nil
    ) throws(Fault) {
        sectors = Atomic(capacity)
        claims = WriteClaims(unit: unit, queues: queues)
        replaying = Atomic(recovers ? queues : 0)
        self.discards = discards
        attentionEvent = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
    }

    /// 512-byte sectors of the device; may change while it is in use.
    public var capacity: UInt64 {
        get { sectors.load(ordering: .relaxed) }
        set { sectors.store(newValue, ordering: .relaxed) }
    }

    /// Some queue's backlog may still change the volume a second time.
    var isReplaying: Bool { replaying.load(ordering: .acquiring) > 0 }

    /// A queue has done its part.
    func endReplay() {
        if replaying.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { claims.wakeAll() }
    }

    /// Readable after a queue's condition has changed; read it to reset it.
    public var attention: Int32 { attentionEvent.number }

    /// Tells the control thread that a queue's condition has changed.
    func callForAttention() { linux_eventfd_signal(attentionEvent.number) }
}
