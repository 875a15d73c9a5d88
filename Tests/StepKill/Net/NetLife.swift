import CStepKill
import CXen
import Descriptors
import Glibc
import Loopback
import NetBackend
import NetFrames
import SharedRing
import XenWire

/// A process with a network interface's queue pair.
struct NetLife: Life {
    private let memory: NetRegion
    var region: Region { memory }
    let recovers: Bool
    private let journal: Journal
    private let channels: [RegionChannel]
    private let grants: NetGrants
    private let policy = SharedReceivePolicy()
    private let limit = RateLimit()

    init(_ memory: NetRegion, recovers: Bool) throws {
        self.memory = memory
        self.recovers = recovers
        journal = try Journal(reading: memory.journals[0])
        channels = NetSide.allCases.map { RegionChannel(memory, $0.rawValue) }
        grants = NetGrants(memory)
    }

    func start() -> NetQueue {
        grants.copiesLate = region.mutant == .lateCopies
        let queue = withoutDescriptors(makeQueue)
        // As the queue's thread does.
        if recovers, region.mutant != .silentRecovery { for channel in channels { channel.notify() } }
        return queue
    }

    private func makeQueue() -> NetQueue {
        do throws(Fault) {
            return try NetQueue(
                configuration, grants: grants, transmitEvents: channels[0], receiveEvents: channels[1],
                tap: memory.tap.near, clock: RegionClock())
        } catch {
            end("the queue is refused: \(error)")
        }
    }

    private var configuration: NetQueueConfiguration {
        let rings = NetConnection.Rings(
            transmit: NetSide.transmit.reference, receive: NetSide.receive.reference, transmitPort: EventPort(1),
            receivePort: EventPort(2))
        return NetQueueConfiguration(
            name: "step-kill", domain: DomainID(7), backend: DomainID(0), rings: rings, offloads: .none, scatters: true,
            limit: limit, policy: policy, journal: journal, recovers: recovers && region.mutant != .noRestore)
    }

    /// io_uring cannot be had, as where it is switched off: copies of a process would share its rings.
    private func withoutDescriptors<Result>(_ body: () -> Result) -> Result {
        var limits = rlimit()
        // `limits` lives for the calls.
        unsafe getrlimit(Int32(RLIMIT_NOFILE.rawValue), &limits)
        var none = rlimit(rlim_cur: 0, rlim_max: limits.rlim_max)
        unsafe setrlimit(Int32(RLIMIT_NOFILE.rawValue), &none)
        defer { unsafe setrlimit(Int32(RLIMIT_NOFILE.rawValue), &limits) }
        return body()
    }

    /// Nothing in it is chance.
    func shuffle(_ random: SeededRandom) {}

    func serve(_ queue: NetQueue) {
        for _ in 0..<10_000 {
            while queue.turn() {}
            guard queue.condition == .running else { end("the queue is \(queue.condition)") }
            if queue.arm() { return }
        }
        end("the queue never comes to rest")
    }
}

/// Grants of the region's memory.
private final class NetGrants: GrantTable {
    private let region: NetRegion
    /// Mutant: copies to the guest are done when the next ones are wanted.
    var copiesLate = false
    private var late: [(segment: xen_grant_copy_segment, bytes: [UInt8])] = []

    init(_ region: NetRegion) { self.region = region }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        guard let side = NetSide.allCases.first(where: { references == [$0.reference] }) else {
            throw Fault("map what is no ring", errno: EINVAL)
        }
        if region.stop == .mapping, side == .receive { step_stop() }
        return unsafe GrantMapping(base: region.ring(side).base, pages: 1, table: self)
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {}

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        if copiesLate, direction == .toGuest { return unsafe copyLate(segments, count) }
        // The caller answers for `count` segments and for their local sides.
        return unsafe Segments.copy(segments, count, direction) { unsafe region.memory($0) }
    }

    private func copyLate(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int) -> Int {
        for (segment, bytes) in late {
            unsafe bytes.withUnsafeBytes { bytes in
                var segment = segment
                // The array's memory, during the copy.
                segment.source = UInt64(UInt(bitPattern: bytes.baseAddress))
                _ = unsafe Segments.copy(segment, .toGuest) { unsafe region.memory($0) }
            }
        }
        late = (0..<count).map { index in
            unsafe segments[index].status = Int16(XEN_GNTST_okay)
            let segment = unsafe segments[index]
            let local = unsafe UnsafeRawPointer(bitPattern: UInt(segment.source))
            return unsafe (segment, Array(UnsafeRawBufferPointer(start: local, count: Int(segment.length))))
        }
        return 0
    }
}
