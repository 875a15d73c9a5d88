import BlockBackend
import Descriptors
import Loopback
import SharedRing
import XenWire

/// One queue of a process that can be killed: what its thread does, step by step.
final class TortureQueue {
    private let queue: Queue
    let engine: ModelEngine
    private let channel: KillableChannel
    private let control: Wakeup
    private let killSwitch: KillSwitch
    private let memory: KillSwitch.Persistent
    private var isAsleep = false
    private var isArming = false

    /// What a queue is made of.
    struct Parts {
        let plan: TorturePlan
        let index: Int
        let ring: GuestRing
        let domain: DomainID
        let platform: ModelPlatform
        let volume: ModelVolume
        let clock: KillableClock
        let shared: DeviceShared
        let memory: KillSwitch.Persistent
        let journal: Journal
        let recovers: Bool
        let notificationsLost: Int
    }

    init(_ parts: Parts, _ killSwitch: KillSwitch) throws(Fault) {
        self.killSwitch = killSwitch
        memory = parts.memory
        control = try Wakeup()
        engine = ModelEngine(
            parts.volume, capacity: parts.plan.engineCapacity, registersSlabs: parts.plan.registersSlabs)
        channel = KillableChannel(
            try parts.platform.bindEventChannel(to: parts.ring.port.number, of: parts.domain), killSwitch,
            swallowing: parts.notificationsLost)
        unsafe memory.mapped(at: nil, killSwitch)
        queue = try Self.makeQueue(parts, killSwitch, engine, channel, control).get()
    }

    /// R1 to R6 are stores, too.
    private static func makeQueue(
        _ parts: Parts, _ killSwitch: KillSwitch, _ engine: ModelEngine, _ channel: KillableChannel, _ control: Wakeup
    ) -> Result<Queue, Fault> {
        let table = parts.platform.openGrantTable()
        let kept =
            parts.plan.persistentGrants
            ? PersistentGrants(before: table, of: parts.domain, budget: MappedPageBudget(pages: 4096)) : nil
        let grants = KillableGrants(kept ?? table, killSwitch, parts.memory)
        return killSwitch.run(parts.memory) {
            Result { () throws(Fault) in
                try Queue(
                    configuration(parts), grants: grants, channel: channel, engine: KillableEngine(engine, killSwitch),
                    clock: parts.clock, shared: parts.shared, control: control.descriptor)
            }
        }
    }

    private static func configuration(_ parts: Parts) -> QueueConfiguration {
        let plan = parts.plan
        return QueueConfiguration(
            name: "vbd-\(parts.domain)-51712.\(parts.index)", domain: parts.domain, abi: plan.abi,
            ringReferences: parts.ring.references, eventPort: parts.ring.port.number, limits: plan.limits,
            bufferCeiling: plan.bufferCeiling, volumeBlock: UInt32(plan.volumeBlock), discard: plan.discardRules,
            firstIndex: plan.firstIndex, index: parts.index, journal: parts.journal, recovers: parts.recovers)
    }

    var condition: QueueCondition { queue.condition }
    private var isPaused: Bool { if case .paused = queue.condition { true } else { false } }

    /// Whether the thread would run: it is awake, or something wakes it. Events are taken by the step.
    func isReady(hasRoom: Bool) -> Bool {
        if !isAsleep || engine.hasCompletions || isPaused && hasRoom { return true }
        if channel.drain() || control.take() { isAsleep = false }
        return !isAsleep
    }

    /// One step; `tidies`: the idle time-out strikes first.
    func step(tidies: Bool) {
        isAsleep = false
        killSwitch.run(memory) {
            if isPaused { queue.retryHeldWrites() }
            if tidies { queue.trim() }
            guard isArming else { return isArming = !queue.turn() }
            isArming = false
            isAsleep = queue.arm()
            if isAsleep { channel.unmask() }
        }
    }
}

/// A process: all queues of the device, what they share, and the switch that kills it.
final class TortureProcess {
    let killSwitch = KillSwitch()
    let clock: KillableClock
    private let discards: KillableDiscards
    private let shared: [DeviceShared]
    var queues: [TortureQueue] = []
    /// Nothing of earlier processes is under way.
    var hasPassedFence = false
    let recovers: Bool

    init(
        _ plan: TorturePlan, _ clock: ModelClock, _ lane: DiscardModel, recovers: Bool, mutant: Mutant?
    ) throws(Fault) {
        self.clock = KillableClock(clock, killSwitch)
        let discards = KillableDiscards(lane, killSwitch)
        self.discards = discards
        self.recovers = recovers
        var shared: [DeviceShared] = []
        let isShared = mutant != .unsharedClaims
        for _ in 0..<(isShared ? 1 : plan.queues) {
            shared.append(
                try DeviceShared(
                    capacity: UInt64(plan.sectors), unit: mutant == .sectorClaims ? 512 : UInt32(plan.volumeBlock),
                    queues: isShared ? plan.queues : 1, recovers: recovers && mutant != .eagerRest,
                    discards: plan.limits.offersDiscard ? discards : nil))
        }
        self.shared = shared
    }

    func shared(_ queue: Int) -> DeviceShared { shared[shared.count > 1 ? queue : 0] }
}
