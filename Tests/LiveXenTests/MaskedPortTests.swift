import BlockBackend
import CLinux
import Descriptors
import Glibc
import Loopback
import SharedRing
import Synchronization
import Testing
import Uring
import XenWire

@testable import LiveXen

/// A queue's thread on a port that the kernel masks with each event, as no eventfd does.
@Suite struct MaskedPortTests {
    /// A fresh port is pending, so an engine that reads the descriptor itself takes its event while the fence is closed. A
    /// queue that forgets this never unmasks the port. Ticks find requests for it until it is idle.
    @Test(arguments: [EngineKind.uring, .libaio])
    func `an event taken while the fence was closed leaves the port unmasked`(kind: EngineKind) throws {
        let rig = try Rig()
        var before: Volume? = try Volume(rig.path)
        let held = try rig.fence(#require(before))
        try #require(try held.pass())
        let volume = try Volume(rig.path)
        let queue = try rig.serve(volume, kind)
        defer { queue.stop() }
        usleep(50_000)
        if kind == .uring { #expect(rig.platform.events.awaitTaken(), "nothing is shown") }
        withExtendedLifetime(held) { before = nil }
        #expect(try rig.read() == .okay)
        awaitIdle(queue)
        #expect(try rig.read() == .okay, "an event is lost")
    }

    /// Returns once the queue has slept for longer than two ticks.
    private func awaitIdle(_ queue: QueueThread) {
        var sleeps: UInt64?
        for _ in 0..<20 where sleeps != queue.counters[QueueEvent.sleeps] {
            sleeps = queue.counters[QueueEvent.sleeps]
            usleep(2_500_000)
        }
    }
}

/// A frontend of domain 5 with a small disk.
private final class Rig {
    let platform: MaskingPlatform
    let path: String
    private let scratch: ScratchDirectory
    private let hypervisor: HypervisorServer
    private let configuration: QueueConfiguration
    private var front: FrontQueue

    private static let domain = DomainID(5)

    init() throws {
        scratch = try ScratchDirectory(in: "/var/tmp")
        path = "\(scratch.path)/volume"
        let file = try OwnedDescriptor(unsafe linux_open(path, O_RDWR | O_CREAT, 0o600), "make \(path)")
        try #require(ftruncate(file.number, 1 << 20) == 0)
        hypervisor = try HypervisorServer(directory: scratch.path)
        try hypervisor.start()
        platform = try MaskingPlatform(LoopbackPlatform(directory: scratch.path, domain: DomainID(0)))
        let guest = try hypervisor.createDomain(Self.domain, pages: 64, references: 64)
        let setup = try FrontRingSetup(pages: 1, abi: .native, domain: guest, backend: DomainID(0))
        configuration = QueueConfiguration(
            name: "masked", domain: Self.domain, abi: .native, ringReferences: setup.references,
            eventPort: setup.port.number, limits: RequestLimits(), mayPoll: false)
        front = try FrontQueue(setup, backend: DomainID(0), domain: guest, options: FrontQueueOptions(slots: 1))
    }

    deinit { hypervisor.stop() }

    func fence(_ volume: Volume) -> VolumeFence {
        VolumeFence(volume.data, domain: Self.domain, device: 51712, host: 1)
    }

    /// Starts a queue behind a fence; the volume must outlive it.
    func serve(_ volume: Volume, _ kind: EngineKind) throws -> QueueThread {
        var fenced = configuration
        fenced.volumeBlock = volume.geometry.operationUnit
        fenced.fence = fence(volume)
        let shared = try DeviceShared(capacity: volume.geometry.capacity.rawValue)
        let choice = try EngineChoice(for: kind)
        return try QueueThread(fenced, platform: platform, shared: shared, clock: SystemClock()) { () throws(Fault) in
            try volume.makeEngine(choice, capacity: 64)
        }
    }

    /// Reads a page's worth of sectors; nil if there is no answer within a minute.
    func read() throws -> BlockStatus? {
        let slot = front.takeSlot()
        front.submit(try #require(slot), .read, sector: 0, sectors: 8, at: 0)
        front.publish()
        for _ in 0..<60_000 {
            if try front.reap() > 0 { return front.completion(0).status }
            usleep(1000)
        }
        return nil
    }
}

/// A loopback platform with one port, which is bound through a `ModelEvtchn`.
private final class MaskingPlatform: RingPlatform {
    let events: ModelEvtchn
    private let loopback: LoopbackPlatform

    init(_ loopback: LoopbackPlatform) throws {
        events = try ModelEvtchn()
        self.loopback = loopback
    }

    func openGrantTable() throws(Fault) -> any GrantTable { try loopback.openGrantTable() }

    func bindEventChannel(to port: EventPort, of domain: DomainID) throws(Fault) -> any EventChannel {
        try LiveEventChannel(ModelCalls(events, loopback), to: port, of: domain)
    }
}

/// /dev/xen/evtchn with one port as evtchn.c behaves, for whoever reads and writes the descriptor, an io_uring too: a
/// delivered port is masked until it is written back, and events that come in between are one. A packet is a port.
private final class ModelEvtchn: Sendable {
    static let port: UInt32 = 9
    /// The queue's end.
    let descriptor: OwnedDescriptor
    private let kernel: OwnedDescriptor
    private let hasDelivered = Atomic<Bool>(false)

    init() throws {
        var ends: [Int32] = [0, 0]
        let kind = Int32(SOCK_SEQPACKET.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        try #require(unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0)
        descriptor = OwnedDescriptor(owning: ends[0])
        kernel = OwnedDescriptor(owning: ends[1])
    }

    /// Plays the kernel until the queue's end is shut down.
    ///
    /// - Parameter source: an eventfd that the other end of the event channel writes to.
    func serve(_ source: Int32) {
        var (isPending, isMasked) = (false, false)
        while true {
            _ = linux_poll_input(kernel.number, source, -1, .max)
            if linux_eventfd_take(source) != 0 { isPending = true }
            var word: UInt32 = 0
            // At most the four bytes of `word`.
            let count = unsafe recv(kernel.number, &word, 4, 0)
            if count == 0 { return }
            if count == 4, word == Self.port { isMasked = false }
            guard isPending, !isMasked else { continue }
            (isPending, isMasked) = (false, true)
            Self.put(Self.port, into: kernel.number)
            hasDelivered.store(true, ordering: .releasing)
        }
    }

    /// One packet, as a write to the device is.
    @discardableResult
    static func put(_ word: UInt32, into socket: Int32) -> Int32 {
        var word = word
        // The four bytes of `word`.
        return unsafe send(socket, &word, 4, Int32(MSG_NOSIGNAL)) == 4 ? 0 : -errno
    }

    /// Waits until the first event was taken from the descriptor; false if it is not within a minute.
    func awaitTaken() -> Bool {
        for _ in 0..<60_000 {
            if hasDelivered.load(ordering: .acquiring), linux_poll_one(descriptor.number, Int16(POLLIN), 0) == 0 {
                return true
            }
            usleep(1000)
        }
        return false
    }
}

/// A queue's calls of a `ModelEvtchn`; the kernel's part is a thread of its own.
private final class ModelCalls: EventCalls {
    private let events: ModelEvtchn
    private let loopback: LoopbackPlatform
    private var bound: (channel: any EventChannel, kernel: JoinableThread)?

    init(_ events: ModelEvtchn, _ loopback: LoopbackPlatform) {
        self.events = events
        self.loopback = loopback
    }

    /// The thread reads the channel's descriptor until it has ended.
    deinit {
        shutdown(descriptor, Int32(SHUT_RDWR))
        bound?.kernel.join()
    }

    var descriptor: Int32 { events.descriptor.number }
    func restrict(to domain: DomainID) -> Int32 { 0 }

    func bind(to port: EventPort, of domain: DomainID) -> Int32 {
        do throws(Fault) {
            let channel = try loopback.bindEventChannel(to: port, of: domain)
            let source = channel.descriptor
            let kernel = try JoinableThread(name: "evtchn") { [events] in events.serve(source) }
            bound = (channel, kernel)
            return Int32(ModelEvtchn.port)
        } catch {
            return -error.code
        }
    }

    func notify(_ port: UInt32) -> Int32 {
        bound?.channel.notify()
        return 0
    }

    func read(_ ports: UnsafeMutablePointer<UInt32>, capacity: Int) -> Int {
        // The caller's room.
        let count = unsafe recv(descriptor, ports, capacity * 4, 0)
        return count < 0 ? -Int(errno) : count / 4
    }

    func unmask(_ port: UInt32) -> Int32 { ModelEvtchn.put(port, into: descriptor) }
    func reset() -> Int32 { 0 }
}
