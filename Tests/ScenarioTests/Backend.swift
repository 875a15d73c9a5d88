import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import XenWire

@testable import BlockBackend

/// A queue as its thread drives it, but one step at a time: what `QueueThread` does, with the scheduler for a kernel.
final class Backend {
    let queue: Queue
    let engine: ModelEngine
    private let channel: any EventChannel
    private var isAsleep = false
    private var isArming = false
    private var hasArrived = false
    private let control: Wakeup
    private var isCalled = false
    private(set) var isStopping = false
    /// How often the idle time-out may still strike.
    private var idleTimeouts = 5

    init(
        _ scenario: Scenario, _ ring: GuestRing, of domain: DomainID, _ disk: Disk, _ platform: ModelPlatform,
        _ simulation: Simulation, limits: RequestLimits? = nil, index: Int = 0, journal: Journal? = nil,
        recovers: Bool = false
    ) throws(Fault) {
        control = try Wakeup()
        engine = ModelEngine(
            disk.volume, capacity: scenario.engineCapacity, registersSlabs: scenario.registersSlabs)
        channel = try platform.bindEventChannel(to: ring.port.number, of: domain)
        let configuration = QueueConfiguration(
            name: "vbd-\(domain)-51712.0", domain: domain, abi: ring.abi, ringReferences: ring.references,
            eventPort: ring.port.number, limits: limits ?? scenario.limits, bufferCeiling: scenario.bufferCeiling,
            volumeBlock: UInt32(scenario.volumeBlock), discard: scenario.discardRules,
            firstIndex: scenario.firstIndex, index: index, journal: journal, recovers: recovers)
        queue = try Queue(
            configuration, grants: platform.openGrantTable(), channel: channel, engine: engine,
            clock: simulation.clock, shared: disk.shared, control: control.descriptor)
    }

    /// The queue's thread has ended.
    private(set) var isOver = false

    /// Whether the thread would run: it is awake, or something wakes it.
    var isReady: Bool {
        guard !isOver else { return false }
        if !hasArrived { hasArrived = channel.drain() }
        if !isCalled { isCalled = control.take() }
        return !isAsleep || hasArrived || isCalled || engine.hasCompletions
    }

    func step() {
        if isAsleep { return wake() }
        // Between the turn that finds nothing and the arming the guest may do something: a step of its own.
        guard isArming else { return turn() }
        isArming = false
        isAsleep = queue.arm()
        // What was sent since the last event arrives now, as one.
        if isAsleep { channel.unmask() }
    }

    private func turn() {
        guard !queue.turn() else { return }
        if isStopping, queue.isDrained {
            isOver = true
            queue.abandon()
        } else {
            isArming = true
        }
    }

    private func wake() {
        isAsleep = false
        isCalled = false
        hasArrived = false
    }

    /// The time-out of the sleep: memory is given back, and held writes are tried again once there is room. It strikes
    /// only then: a time-out that finds forgotten requests would hide a lost wake-up.
    func mayTimeOut(hasRoom: Bool, guestIsIdle: Bool) -> Bool {
        guard isAsleep, !isOver else { return false }
        if isPaused { return hasRoom || idleTimeouts > 0 }
        return guestIsIdle && idleTimeouts > 0
    }

    func timeOut() {
        idleTimeouts -= 1
        isAsleep = false
        queue.retryHeldWrites()
        queue.trim()
    }

    var isPaused: Bool { if case .paused = queue.condition { true } else { false } }

    /// Whether all buffer memory can be given back, as it must be when nothing is in flight.
    func givesAllMemoryBack() -> Bool {
        queue.trim()
        return QueueCounters(queue.cells)[QueueEvent.bufferBytes] == 0 && engine.slabs.isEmpty
    }

    func stop() {
        isStopping = true
        isCalled = true  // as the owner's write to the eventfd
        queue.beginStop()
    }
}
