internal import CLinux
public import Descriptors
internal import Glibc
public import SharedRing
internal import Synchronization
public import Telemetry

/// A queue pair and the thread that serves it: the part that waits.
public final class NetQueueThread: Sendable {
    /// The counters, readable from any thread.
    public let cells: Cells
    private let control: OwnedDescriptor
    private let state: SharedState
    private let thread: JoinableThread

    private final class SharedState: Sendable {
        let stopping = Atomic<Bool>(false)
        let condition = Mutex(NetCondition.running)
    }

    /// Maps the rings, binds the event channels and starts the thread; returns when it serves, or throws what failed.
    ///
    /// - Parameters:
    ///   - tap: a TAP queue's descriptor; it outlives the thread.
    ///   - attention: an eventfd that is signalled when the condition changes; it outlives the thread.
    public init(
        _ configuration: NetQueueConfiguration, platform: any RingPlatform, tap: Int32, attention: Int32,
        clock: any Clock = SystemClock()
    ) throws(Fault) {
        let control = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
        let state = SharedState()
        let started = try Handover<Result<Cells, Fault>>()
        let wakeup = control.number  // outlives the thread: `stop` joins before it is closed
        thread = try JoinableThread(name: configuration.name) {
            do throws(Fault) {
                let loop = try NetQueueLoop(
                    configuration, platform: platform, tap: tap, control: wakeup, clock: clock)
                started.give(.success(loop.queue.cells))
                Journal.recordingFaults(in: configuration.journal) {
                    loop.run(stopping: { state.stopping.load(ordering: .acquiring) }) { condition in
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

    /// How the queue is doing.
    public var condition: NetCondition { state.condition.withLock { $0 } }

    public subscript(counter: NetCounter) -> UInt64 { cells.load(counter.rawValue) }

    /// The rate limit was changed.
    public func noteRate() { linux_eventfd_signal(control.number) }

    /// Ends after what it is doing: nothing is ever in flight between two turns. Once only.
    public func stop() {
        state.stopping.store(true, ordering: .releasing)
        linux_eventfd_signal(control.number)
        thread.join()
    }
}

/// What a queue's thread runs.
private final class NetQueueLoop {
    let queue: NetQueue
    private let transmitEvents: any EventChannel
    private let receiveEvents: any EventChannel
    private let isSplit: Bool
    private let tap: Int32
    private let control: Int32
    private let clock: any Clock
    private var throttle = EventThrottle()
    private var patience: ReceivePatience
    private let notifiesReceive: Bool
    private let recovers: Bool
    private var busyTurns: UInt64 = 0

    /// How often a guest that does not say so is looked at for receive buffers (xen-netback: 30 ms).
    private static let look: UInt64 = 30_000_000

    init(
        _ configuration: NetQueueConfiguration, platform: any RingPlatform, tap: Int32, control: Int32, clock: any Clock
    ) throws(Fault) {
        let (domain, rings) = (configuration.domain, configuration.rings)
        let grants = try platform.openGrantTable()
        transmitEvents = try platform.bindEventChannel(
            to: rings.transmitPort, of: domain, again: configuration.recovers)
        isSplit = rings.isSplit
        receiveEvents =
            isSplit
            ? try platform.bindEventChannel(to: rings.receivePort, of: domain, again: configuration.recovers)
            : transmitEvents
        queue = try NetQueue(
            configuration, grants: grants, transmitEvents: transmitEvents, receiveEvents: receiveEvents, tap: tap,
            clock: clock)
        self.clock = clock
        self.tap = tap
        self.control = control
        notifiesReceive = configuration.notifiesReceive
        recovers = configuration.recovers
        patience = ReceivePatience(notifies: configuration.notifiesReceive)
    }

    func run(stopping: () -> Bool, report: (NetCondition) -> Void) {
        var condition = NetCondition.running
        if recovers { announce() }
        while !stopping() {
            let worked = queue.turn()
            if worked { throttle.foundWork() }
            busyTurns = worked ? busyTurns &+ 1 : 0
            // Also of a guest that sends all the time, and reads nothing; but seldom, for it takes a look at the clock.
            if busyTurns % 64 == 0 { lookAfterBacklog() }
            if self.condition != condition {
                condition = self.condition
                report(condition)
            }
            if !worked || queue.hasTakenAll, queue.arm() { sleep() }
        }
    }

    /// An earlier process may have published without having told the guest.
    private func announce() {
        transmitEvents.notify()
        if isSplit { receiveEvents.notify() }
    }

    private var condition: NetCondition {
        queue.condition == .running && patience.isStalled ? .stalled : queue.condition
    }

    /// The clock is read only where there is something to wait for.
    private func lookAfterBacklog() {
        let lacksBuffers = queue.lacksBuffers
        guard lacksBuffers || patience.deadline != .max else { return }
        let now = clock.now()
        guard patience.mustDiscard(lacksBuffers: lacksBuffers, now: now) else { return }
        patience.discarded(queue.discardBacklog(), now: now)
    }

    /// Sleeps until an event, a frame that can be delivered, or `stop`. A storm of events that lead to nothing is left
    /// masked for a while; frames are looked after all the same.
    private func sleep() {
        let isResting = throttle.pause > 0
        if !isResting {
            transmitEvents.unmask()
            if isSplit { receiveEvents.unmask() }
        }
        let limit = isResting ? throttle.pause : patienceLeft
        let descriptors: [4 of Int32] = [
            isResting ? -1 : transmitEvents.descriptor, isResting || !isSplit ? -1 : receiveEvents.descriptor, control,
            queue.canDeliver ? tap : -1,
        ]
        let ready = unsafe withUnsafePointer(to: descriptors) { pointer in
            // An inline array is its elements and nothing else.
            unsafe linux_poll_inputs(
                UnsafeRawPointer(pointer).assumingMemoryBound(to: Int32.self), 4, limit)
        }
        queue.count(.sleeps)
        if isResting { throttle.rested() }
        take(ready)
    }

    /// Nanoseconds for which nothing has to be done unasked.
    private var patienceLeft: UInt64 {
        let end = min(queue.restEnds, patience.deadline)
        let look = !notifiesReceive && queue.lacksBuffers ? Self.look : .max
        guard end != .max else { return look }
        let now = clock.now()
        return min(look, end > now ? end &- now : 0)
    }

    private func take(_ ready: Int32) {
        guard ready > 0 else { return }
        var hasEvent = ready & 1 != 0 && transmitEvents.drain()
        hasEvent = ready & 2 != 0 && receiveEvents.drain() || hasEvent
        if ready & 4 != 0 {
            _ = linux_eventfd_take(control)
            queue.endRest()
        }
        guard hasEvent else { return }
        queue.count(.eventsReceived)
        throttle.tookEvent()
    }
}
