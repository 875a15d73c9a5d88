internal import CLinux
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import Synchronization
internal import Telemetry
internal import XenWire

/// A control ring and the thread that serves it: the part that waits.
final class ControlThread: Sendable {
    let cells: Cells
    private let control: OwnedDescriptor
    private let state: SharedState
    private let thread: JoinableThread

    private final class SharedState: Sendable {
        let stopping = Atomic<Bool>(false)
        let condition = Mutex(NetCondition.running)
    }

    /// Maps the ring, binds the event channel and starts the thread; returns when it serves, or throws what failed.
    ///
    /// - Parameters:
    ///   - attention: an eventfd that is signalled when the condition changes; it outlives the thread.
    ///   - recovers: an earlier process has served the ring.
    ///   - follow: called on the thread after a change of what the guest has set.
    init(
        name: String, _ rings: NetConnection.Control, of domain: DomainID, policy: SharedReceivePolicy,
        platform: any RingPlatform, attention: Int32, recovers: Bool, follow: @escaping @Sendable () -> Void
    ) throws(Fault) {
        let control = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
        let state = SharedState()
        let started = try Handover<Result<Cells, Fault>>()
        let wakeup = control.number  // outlives the thread: `stop` joins before it is closed
        thread = try JoinableThread(name: name) {
            do throws(Fault) {
                let events = try platform.bindEventChannel(to: rings.port, of: domain, again: recovers)
                let ring = try ControlRing(
                    rings.ring, of: domain, policy: policy, grants: platform.openGrantTable(), events: events,
                    recovers: recovers, follow: follow)
                started.give(.success(ring.cells))
                // An earlier process may have published without having told the guest.
                if recovers { events.notify() }
                Journal.recordingFaults(in: policy.journal) {
                    Self.run(ring, events, wakeup, until: { state.stopping.load(ordering: .acquiring) }) { condition in
                        state.condition.withLock { $0 = condition }
                        linux_eventfd_signal(attention)
                    }
                }
            } catch {
                started.give(.failure(error))
            }
        }
        self.control = control
        self.state = state
        switch started.take() {
        case .success(let cells): self.cells = cells
        case .failure(let fault):
            thread.join()
            throw fault
        }
    }

    /// How the ring is doing.
    var condition: NetCondition { state.condition.withLock { $0 } }

    /// Once only.
    func stop() {
        state.stopping.store(true, ordering: .releasing)
        linux_eventfd_signal(control.number)
        thread.join()
    }

    private static func run(
        _ ring: ControlRing, _ events: any EventChannel, _ control: Int32, until isStopping: () -> Bool,
        _ report: (NetCondition) -> Void
    ) {
        var throttle = EventThrottle()
        var condition = NetCondition.running
        while !isStopping() {
            let worked = ring.turn()
            if worked { throttle.foundWork() }
            if ring.condition != condition {
                condition = ring.condition
                report(condition)
            }
            if !worked, ring.arm() { sleep(events, control, &throttle) }
        }
    }

    /// Sleeps until an event or `stop`; a storm of events that lead to nothing is left masked for a while.
    private static func sleep(_ events: any EventChannel, _ control: Int32, _ throttle: inout EventThrottle) {
        let isResting = throttle.pause > 0
        if !isResting { events.unmask() }
        let descriptors: [2 of Int32] = [isResting ? -1 : events.descriptor, control]
        let ready = unsafe withUnsafePointer(to: descriptors) { pointer in
            // An inline array is its elements and nothing else.
            unsafe linux_poll_inputs(
                UnsafeRawPointer(pointer).assumingMemoryBound(to: Int32.self), 2, isResting ? throttle.pause : .max)
        }
        if isResting { throttle.rested() }
        guard ready > 0 else { return }
        if ready & 2 != 0 { _ = linux_eventfd_take(control) }
        if ready & 1 != 0, events.drain() { throttle.tookEvent() }
    }
}
