internal import CLinux
internal import CXen
public import Descriptors
internal import Glibc
public import SharedRing
internal import Synchronization
public import Telemetry
public import Uring

/// A queue and the thread that serves it: the part that waits.
public final class QueueThread: Sendable {
    /// The counters, readable from any thread.
    public let cells: Cells
    private let control: OwnedDescriptor
    private let state: SharedState
    private let thread: JoinableThread

    /// What the thread and its owner share.
    private final class SharedState: Sendable {
        let stopping = Atomic<Bool>(false)
        let condition = Mutex(QueueCondition.running)
    }

    /// Maps the ring, binds the event channel and starts the thread; returns when it serves, or throws what failed.
    ///
    /// - Parameter makeEngine: called on the new thread, because an io_uring may belong to one thread.
    public init(
        _ configuration: QueueConfiguration, platform: any RingPlatform, shared: DeviceShared, clock: any Clock,
        makeEngine: @escaping @Sendable () throws(Fault) -> any Engine
    ) throws(Fault) {
        let control = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
        let state = SharedState()
        let started = try Handover<Result<Cells, Fault>>()
        let wakeup = control.number  // outlives the thread: `stop` joins before it is closed
        thread = try JoinableThread(name: configuration.name) {
            do throws(Fault) {
                let loop = try QueueLoop(
                    configuration, platform: platform, shared: shared, clock: clock, engine: makeEngine(),
                    control: wakeup)
                started.give(.success(loop.queue.cells))
                Journal.recordingFaults(in: configuration.journal) {
                    loop.run(stopping: { state.stopping.load(ordering: .acquiring) }) { condition in
                        state.condition.withLock { $0 = condition }
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
    public var condition: QueueCondition { state.condition.withLock { $0 } }

    /// The counters now.
    public var counters: QueueCounters { QueueCounters(cells) }

    /// Takes no more requests, lets what is in flight end and be answered, unmaps and unbinds. Once only; blocks until
    /// the volume has answered.
    public func stop() {
        state.stopping.store(true, ordering: .releasing)
        linux_eventfd_signal(control.number)
        thread.join()
    }
}

/// What a queue's thread runs.
private final class QueueLoop {
    let queue: Queue
    private let channel: any EventChannel
    private let engine: any Engine
    private let clock: any Clock
    private let control: Int32
    private let fence: VolumeFence?
    private let maySpin: Bool
    private var ringSpin = SpinPolicy.forRing
    private var volumeSpin = SpinPolicy.forVolume
    private var throttle = EventThrottle()
    private var reported: UInt32 = 0
    /// Since the last tick.
    private var hasWorked = false
    /// For a whole tick nothing has happened.
    private var isIdle = false

    /// How long a queue does nothing, at least, before it gives its memory back, and how often held writes are tried again.
    private static let idle: UInt64 = 1_000_000_000
    /// Nanoseconds between two looks whether an earlier process's I/O is over; most often it is at the first.
    private static let fencePause: UInt64 = 1_000_000

    init(
        _ configuration: QueueConfiguration, platform: any RingPlatform, shared: DeviceShared, clock: any Clock,
        engine: any Engine, control: Int32
    ) throws(Fault) {
        let grants = Self.grants(try platform.openGrantTable(), configuration)
        channel = try platform.bindEventChannel(
            to: configuration.eventPort, of: configuration.domain, again: configuration.recovers)
        queue = try Queue(
            configuration, grants: grants, channel: channel, engine: engine, clock: clock, shared: shared,
            control: control)
        try engine.watch(event: channel.descriptor, control: control, takingEvents: true)
        self.engine = engine
        self.clock = clock
        self.control = control
        maySpin = configuration.mayPoll
        fence = configuration.fence
    }

    private static func grants(_ table: any GrantTable, _ configuration: QueueConfiguration) -> any GrantTable {
        guard let budget = configuration.mappedPages else { return table }
        return PersistentGrants(before: table, of: configuration.domain, budget: budget)
    }

    func run(stopping: () -> Bool, report: (QueueCondition) -> Void) {
        guard awaitFence(stopping, report) else { return queue.abandon() }
        while true {
            let isStopping = stopping()
            if isStopping { queue.beginStop() }
            let worked = turn()
            reportChange(report)
            if isStopping, !worked, queue.isDrained { return queue.abandon() }
            if !worked, !spinFindsWork(), queue.arm() { sleep() }
        }
    }

    /// Waits until nothing of an earlier process is under way on the volume; false if the queue is stopped first.
    private func awaitFence(_ stopping: () -> Bool, _ report: (QueueCondition) -> Void) -> Bool {
        guard let fence else { return true }
        do throws(Fault) {
            while try !fence.pass() {
                if stopping() { return false }
                take(engine.wait(nanoseconds: Self.fencePause))
            }
            // For the status file: how long it was.
            queue.callForAttention()
            return true
        } catch {
            queue.fail(error)
            reportChange(report)
            while !stopping() { take(engine.wait(nanoseconds: nil)) }
            return false
        }
    }

    private func turn() -> Bool {
        guard queue.turn() else { return false }
        throttle.foundWork()
        hasWorked = true
        isIdle = false
        return true
    }

    private func reportChange(_ report: (QueueCondition) -> Void) {
        guard queue.conditionChanges != reported else { return }
        reported = queue.conditionChanges
        report(queue.condition)
    }

    private func spinFindsWork() -> Bool {
        guard maySpin else { return false }
        if queue.awaitsOneAnswer {
            // The kernel's threads that bring the answer, and a frontend in this domain, go first.
            return spinFindsWork(&volumeSpin) { sched_yield() }
        }
        return spinFindsWork(&ringSpin) { xen_spin_hint() }
    }

    private func spinFindsWork(_ spin: inout SpinPolicy, between: () -> Void) -> Bool {
        let budget = spin.nextBudget()
        guard budget > 0 else { return false }
        engine.flush()
        let start = clock.now()
        repeat {
            if turn() {
                spin.spun(foundWork: true)
                return true
            }
            between()
        } while clock.now() &- start < budget
        spin.spun(foundWork: false)
        return false
    }

    /// Sleeps until there is something to do.
    private func sleep() {
        if throttle.pause > 0 { return rest() }
        // Only now: whatever was sent since the last event is one event more, and not one per request.
        let acknowledgement = unmasked()
        let reasons = engine.wait(isIdle ? .forever : .tick(nanoseconds: Self.idle), acknowledgement: acknowledgement)
        queue.noteSleep()
        take(reasons)
        if reasons.isEmpty { ticked() }
    }

    /// Unmasks the event channel, or has the engine do so.
    private func unmasked() -> UInt32? {
        if engine.takesEvents { return channel.takeUnmasking() }
        channel.unmask()
        return nil
    }

    private func take(_ reasons: WakeReasons) {
        if reasons.contains(.eventTaken) { channel.noteTaken() }
        if reasons.contains(.eventTaken) || reasons.contains(.event) && channel.drain() {
            queue.noteEvent()
            throttle.tookEvent()
        }
        if reasons.contains(.control) { _ = linux_eventfd_take(control) }
    }

    /// A queue that did nothing since the last tick is idle, and needs no more of them until it has worked.
    private func ticked() {
        queue.retryHeldWrites()
        let isPaused = if case .paused = queue.condition { true } else { false }
        if !hasWorked { queue.trim() }
        isIdle = !hasWorked && !isPaused
        hasWorked = false
    }

    /// Leaves the event channel masked for a while: the last events led to nothing.
    private func rest() {
        queue.noteRest()
        take(engine.wait(nanoseconds: throttle.pause))
        throttle.rested()
    }
}
