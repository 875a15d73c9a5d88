import BlockBackend
import CXen
import Descriptors
import Loopback
import SharedRing
import Uring
import XenWire

// What a process does to the world, each call an event at which it can be killed. A dead process' calls look to it as if
// they succeeded.

/// Grants: a copy is killed between two segments.
final class KillableGrants: GrantTable {
    private let table: any GrantTable
    private let killSwitch: KillSwitch
    private let memory: KillSwitch.Persistent

    init(_ table: any GrantTable, _ killSwitch: KillSwitch, _ memory: KillSwitch.Persistent) {
        self.table = table
        self.killSwitch = killSwitch
        self.memory = memory
    }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        let mapping = try table.map(references, of: domain, writable: writable)
        unsafe memory.mapped(at: mapping.base, killSwitch)
        return mapping
    }

    /// Never called: mappings are the inner table's.
    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {}

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        let alive = killSwitch.pass(count)
        // `alive` is at most the caller's `count`.
        let failed = unsafe alive > 0 ? table.copy(segments, count: alive, direction) : 0
        for index in alive..<count { unsafe segments[index].status = Int16(XEN_GNTST_okay) }
        return failed
    }
}

/// An engine: a submission is killed between two operations.
final class KillableEngine: Engine {
    let model: ModelEngine
    private let killSwitch: KillSwitch

    init(_ model: ModelEngine, _ killSwitch: KillSwitch) {
        self.model = model
        self.killSwitch = killSwitch
    }

    var capacity: Int { model.capacity }

    func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        let alive = killSwitch.pass(count)
        // `alive` is at most the caller's `count`.
        if alive == count { return unsafe model.submit(operations, count: count, lazily: lazily) }
        _ = unsafe model.submit(operations, count: alive, lazily: lazily)
        return count
    }

    func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        // The caller answers for `capacity`.
        killSwitch.pass() > 0 ? unsafe model.reap(completions, capacity: capacity) : 0
    }

    func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool {
        unsafe model.register(slab: slab, memory)
    }

    func unregister(slab: UInt16) { model.unregister(slab: slab) }
    func flush() {}
    func watch(event: Int32, control: Int32, takingEvents: Bool) {}
    var takesEvents: Bool { false }
    func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons { [] }
}

final class KillableChannel: EventChannel {
    private let channel: any EventChannel
    private let killSwitch: KillSwitch
    /// So many notifications get lost: a mutant.
    private var swallowed: Int

    init(_ channel: any EventChannel, _ killSwitch: KillSwitch, swallowing: Int) {
        self.channel = channel
        self.killSwitch = killSwitch
        swallowed = swallowing
    }

    var descriptor: Int32 { -1 }

    func notify() {
        guard killSwitch.pass() > 0 else { return }
        if swallowed > 0 { swallowed -= 1 } else { channel.notify() }
    }

    func drain() -> Bool { channel.drain() }
    func unmask() { if killSwitch.pass() > 0 { channel.unmask() } }
}

/// Sendable because the seam demands it; every use is from the scheduler's thread.
final class KillableClock: Clock, @unchecked Sendable {
    private let clock: ModelClock
    private let killSwitch: KillSwitch

    init(_ clock: ModelClock, _ killSwitch: KillSwitch) {
        self.clock = clock
        self.killSwitch = killSwitch
    }

    func now() -> UInt64 {
        _ = killSwitch.pass()
        return clock.now()
    }
}

/// As `KillableClock`.
final class KillableDiscards: DiscardExecutor, @unchecked Sendable {
    private let lane: DiscardModel
    private let killSwitch: KillSwitch

    init(_ lane: DiscardModel, _ killSwitch: KillSwitch) {
        self.lane = lane
        self.killSwitch = killSwitch
    }

    func submit(_ job: DiscardJob) -> Bool { killSwitch.pass() > 0 ? lane.submit(job) : true }
}
