import BlockBackend
import CStepKill
import CXen
import Descriptors
import Glibc
import Loopback
import SharedRing
import Telemetry
import XenWire

/// A process with a disk's queues, whose threads are one that takes turns.
struct BlockLife: Life {
    private let memory: BlockRegion
    var region: Region { memory }
    let recovers: Bool
    private let journals: [Journal]
    private let shares: Shares
    private let channels: [RegionChannel]
    private let disks: [RegionDisk]
    private let lane: RegionLane

    static let guest = DomainID(7)
    /// Copies of the disk, as far as the queue knows, behind each other. Only mutants use more than the first.
    static let aliases = 64

    init(_ memory: BlockRegion, recovers: Bool) throws {
        self.memory = memory
        self.recovers = recovers
        journals = try memory.journals.map { try Journal(reading: $0) }
        lane = RegionLane(memory)
        shares = try Shares(queues: memory.queues, recovers: recovers, lane)
        channels = (0..<memory.queues).map { RegionChannel(memory, $0) }
        disks = (0..<memory.queues).map { _ in RegionDisk(memory) }
    }

    /// What the queues have in common, and what they have instead in mutants: made before instructions are counted, because
    /// that takes many.
    private struct Shares {
        let common: DeviceShared
        private let apart: [DeviceShared]
        private let careless: DeviceShared

        init(queues: Int, recovers: Bool, _ lane: RegionLane) throws {
            let capacity = UInt64(BlockRegion.sectors * BlockLife.aliases)
            common = try DeviceShared(capacity: capacity, queues: queues, recovers: recovers, discards: lane)
            apart = try (0..<queues).map { _ in
                try DeviceShared(capacity: capacity, recovers: recovers, discards: lane)
            }
            careless = try DeviceShared(capacity: capacity, queues: queues, discards: lane)
        }

        func of(_ queue: Int, _ mutant: Mutant?) -> DeviceShared {
            switch mutant {
            case .unsharedClaims: apart[queue]
            case .noPhaseA: careless
            default: common
            }
        }
    }

    // MARK: Beginning

    func start() -> [Queue] {
        for channel in channels { channel.swallowsEvents = region.mutant == .silentRecovery }
        for disk in disks { disk.writesBack = region.mutant == .writeBack }
        lane.answersEarly = region.mutant == .earlyDiscards
        let queues = (0..<memory.queues).map(queue)
        for channel in channels { channel.swallowsEvents = false }
        return queues
    }

    private func queue(_ index: Int) -> Queue {
        do throws(Fault) {
            return try Queue(
                configuration(index), grants: BlockGrants(memory, index), channel: channels[index],
                engine: disks[index], clock: RegionClock(), shared: shares.of(index, region.mutant), control: -1)
        } catch {
            end("queue \(index) is refused: \(error)")
        }
    }

    private func configuration(_ index: Int) -> QueueConfiguration {
        QueueConfiguration(
            name: "step-kill", domain: Self.guest, abi: .native,
            ringReferences: [GrantReference(BlockRegion.firstReference.rawValue + UInt32(index))],
            eventPort: EventPort(UInt32(1 + index)),
            limits: RequestLimits(indirectSegments: 8, offersBarrier: true, offersDiscard: true),
            bufferCeiling: 256 << 10, firstIndex: BlockRegion.firstIndex, index: index, journal: journals[index],
            recovers: recovers)
    }

    func shuffle(_ random: SeededRandom) {
        lane.random = random
        for disk in disks { disk.random = SeededRandom(seed: lane.random.next()) }
    }

    // MARK: Turns

    func serve(_ queues: [Queue]) {
        for _ in 0..<10_000 {
            var hasWorked = lane.step()
            // Whose turn it is first is chance.
            let first = lane.random.below(queues.count)
            for place in queues.indices {
                hasWorked = turns(queues[(first + place) % queues.count]) || hasWorked
            }
            if region.stop == .turn, lane.random.chance(perThousand: 100) { step_stop() }
            if !hasWorked, queues.allSatisfy({ $0.isDrained && $0.arm() }) { return }
        }
        end("the queues never come to rest")
    }

    /// A thread runs for a while, or until there is nothing to do.
    private func turns(_ queue: Queue) -> Bool {
        let most = 1 + lane.random.below(4)
        var done = 0
        while done < most, queue.turn() { done += 1 }
        guard queue.condition == .running else { end("a queue is \(queue.condition)") }
        return done > 0
    }
}

/// Grants of the region's pages: no copy ever fails.
private final class BlockGrants: GrantTable {
    private let region: BlockRegion
    private let queue: Int

    init(_ region: BlockRegion, _ queue: Int) {
        self.region = region
        self.queue = queue
    }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        guard references == [GrantReference(BlockRegion.firstReference.rawValue + UInt32(queue))] else {
            throw Fault("map what is no ring", errno: EINVAL)
        }
        if region.stop == .mapping { step_stop() }
        return unsafe GrantMapping(base: region.ring(queue), pages: 1, table: self)
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {}

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        // The caller answers for `count` segments and for their local sides; pages have 4096 bytes.
        unsafe Segments.copy(segments, count, direction) { reference in
            unsafe region.page(reference).map { unsafe UnsafeMutableRawBufferPointer(start: $0, count: 4096) }
        }
    }
}
