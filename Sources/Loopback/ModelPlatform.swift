public import Descriptors
public import SharedRing
public import XenWire

/// The model hypervisor in one process, for one thread: nothing happens unless the caller makes it happen, so that a
/// seeded scheduler decides when each event arrives and the same seed gives the same history.
///
/// Sendable because the seam demands it; every use is from the scheduler's thread.
public final class ModelPlatform: RingPlatform, GuestHypervisor, @unchecked Sendable {
    private let domain: DomainID
    private var state = HypervisorState<ModelSignal>()
    /// In the order in which the ports were made, so that a scheduler's choice means the same in every run.
    private var signals: [WeakSignal] = []

    private struct WeakSignal {
        weak var signal: ModelSignal?
    }

    /// - Parameter domain: the domain that the backends under test belong to.
    public init(domain: DomainID = DomainID(0)) {
        self.domain = domain
    }

    // ---- The scheduler's side

    /// Events that could arrive now.
    public var deliverable: [PendingEvent] {
        signals.removeAll { $0.signal == nil }
        return signals.compactMap { $0.signal }.filter(\.isDeliverable).map(PendingEvent.init)
    }

    // ---- The guests' side

    public func createDomain(_ id: DomainID, pages: UInt32, references: UInt32) throws(Fault) -> GuestDomain {
        try GuestDomain(id, state.createDomain(id, .init(pages: pages, references: references)), self)
    }

    public func destroyDomain(_ id: DomainID) { state.destroyDomain(id) }

    public func mappedPages(of domain: DomainID) -> Int { state.maps.mappedPages(of: domain) }

    public func openPort(in domain: DomainID, for remote: DomainID) throws(Fault) -> GuestPort {
        let (address, ends) = try state.openPort(in: domain, for: remote)
        signals += [WeakSignal(signal: ends.own), WeakSignal(signal: ends.peer)]
        return GuestPort(number: address.port, channel: channel(address, ends))
    }

    // ---- The backends' side

    public func openGrantTable() -> any GrantTable { ModelGrantTable(LocalAuthority(self, domain)) }

    public func bindEventChannel(to port: EventPort, of domain: DomainID) throws(Fault) -> any EventChannel {
        let (address, ends) = try state.bind(in: self.domain, to: .init(domain: domain, port: port))
        return channel(address, ends)
    }

    private func channel(
        _ address: EventChannelTable.Address, _ ends: HypervisorState<ModelSignal>.Ends
    ) -> ModelChannel {
        let lease = PortLease { [self] in state.close(address) }
        let isBound = { [self] in
            if case .interdomain? = state.ports.state(of: address) { true } else { false }
        }
        return ModelChannel(own: ends.own, peer: ends.peer, lease: lease, isBound: isBound)
    }

    /// A grant table handle's side of the hypervisor; releases what the handle held when it goes.
    private final class LocalAuthority: GrantAuthority {
        let domain: DomainID
        private let platform: ModelPlatform
        private var records: [(memory: DomainMemory, record: Int)] = []
        private var handles: Set<UInt32> = []

        init(_ platform: ModelPlatform, _ domain: DomainID) {
            self.platform = platform
            self.domain = domain
        }

        func attach(_ domain: DomainID) throws(Fault) -> (memory: DomainMemory, record: Int) {
            let (memory, record) = try platform.state.attach(domain)
            records.append((memory, record))
            return (memory, record)
        }

        func map(
            _ references: [UInt32], of domain: DomainID, writable: Bool
        ) throws(Fault) -> (handle: UInt32, frames: [UInt32], memory: SharedMemory) {
            let (handle, frames, memory) = try platform.state.map(
                references, of: domain, for: self.domain, writable: writable)
            handles.insert(handle)
            return (handle, frames, memory.memory)
        }

        func unmap(_ handle: UInt32) {
            if handles.remove(handle) != nil { platform.state.unmap(handle) }
        }

        deinit {
            for handle in handles { platform.state.unmap(handle) }
            for (memory, record) in records { memory.records.release(record) }
        }
    }
}

/// An event that was sent and has not arrived.
public struct PendingEvent: Sendable {
    private let signal: ModelSignal
    init(_ signal: ModelSignal) { self.signal = signal }

    /// Lets it arrive: the end that it is for has something to `drain`.
    public func deliver() { signal.deliver() }
}

/// One end's events as flags. Confined to the scheduler's thread, like its `ModelPlatform`.
final class ModelSignal: EventSignal, @unchecked Sendable {
    private var isPending = false
    private var hasArrived = false
    /// From `take` to `unmask` nothing arrives, as /dev/xen/evtchn has it.
    private var isMasked = false

    init(isWaitedFor: Bool) {}

    var isDeliverable: Bool { isPending && !isMasked && !hasArrived }

    func send() { isPending = true }

    func clear() {
        isPending = false
        hasArrived = false
        isMasked = false
    }

    func deliver() {
        guard isDeliverable else { return }
        isPending = false
        hasArrived = true
    }

    func take() -> Bool {
        guard hasArrived else { return false }
        hasArrived = false
        isMasked = true
        return true
    }

    func unmask() { isMasked = false }
}

/// An event channel end whose events are flags.
private final class ModelChannel: EventChannel, @unchecked Sendable {
    private let own: ModelSignal
    private let peer: ModelSignal
    private let lease: PortLease
    private let isBound: () -> Bool

    init(own: ModelSignal, peer: ModelSignal, lease: PortLease, isBound: @escaping () -> Bool) {
        self.own = own
        self.peer = peer
        self.lease = lease
        self.isBound = isBound
    }

    // Nothing to poll: the scheduler knows when an event has arrived.
    var descriptor: Int32 { -1 }
    // What is sent to an unbound port is dropped (event_channel.c, evtchn_send).
    func notify() { if isBound() { peer.send() } }
    func drain() -> Bool { own.take() }
    func unmask() { own.unmask() }
}
