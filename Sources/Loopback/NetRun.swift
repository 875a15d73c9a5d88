internal import CLinux
internal import Descriptors
internal import Glibc
internal import Synchronization
internal import XenWire
internal import Xenstore

/// Puts one load on one interface, from the creation of the world to its end, in a network namespace of its own.
public final class NetRun {
    private let load: NetLoad
    private let setting: RunSetting
    private let isOver: () -> Bool
    private let control = NetLoadControl()
    private var wasInterrupted = false
    private var kills: KillSeries?

    /// Without a frame for so long something is wrong.
    private static let patience: UInt64 = 3_000_000_000
    static let domain = DomainID(1)
    static let address = MACAddress(0, 0x16, 0x3E, 0, 0, 1)

    /// - Parameter isOver: asked a few times a second; true ends the load early.
    public init(_ load: NetLoad, _ setting: RunSetting, isOver: @escaping () -> Bool) {
        self.load = load
        self.setting = setting
        self.isOver = isOver
    }

    /// Runs the load. The calling thread is in another network afterwards.
    public func run() throws(LoopbackError) -> NetReport {
        try host { () throws(Fault) in try NetworkNamespace.enterNew() }
        let interface = InterfaceDescription(domain: Self.domain, address: Self.address)
        let served = try ServedInterface(interface, setting, pages: pages)
        defer { served.end() }
        do throws(LoopbackError) {
            let report = try drive(served)
            try served.detach()
            return report
        } catch {
            throw served.explained(error)
        }
    }

    /// Rings, frames on their way and buffers of all queues.
    private var pages: UInt32 { UInt32(load.queues) * 1600 + 256 }

    private func drive(_ served: ServedInterface) throws(LoopbackError) -> NetReport {
        let limit: UInt64 = if case .frames(let count) = load.amount { count } else { .max }
        let lanes = try host { [self] () throws(Fault) in
            var lanes: [NetLane] = []
            for index in 0..<load.queues {
                let share =
                    limit == .max ? limit : limit / UInt64(load.queues) + (index == 0 ? limit % UInt64(load.queues) : 0)
                lanes.append(try NetLane(served.guest, load, index, share, setting.processors?.frontend))
            }
            return lanes
        }
        try served.connect(lanes.map(\.published))
        var report = NetReport(load: load)
        let before = served.processorNanoseconds
        let start = linux_monotonic_nanoseconds()
        try host { [control] () throws(Fault) in
            for lane in lanes { try lane.start(control, served.interface.hostName) }
        }
        kills = load.killNanoseconds.map { KillSeries(every: $0) }
        try watch(lanes, start, served)
        report.nanoseconds = linux_monotonic_nanoseconds() - start
        report.backendNanoseconds = served.processorNanoseconds &- before
        for lane in lanes { try lane.finish(&report) }
        report.kills = kills
        report.wasInterrupted = wasInterrupted
        return report
    }

    /// Until all lanes are done, on time or because nothing moves any more.
    private func watch(_ lanes: [NetLane], _ start: UInt64, _ served: ServedInterface) throws(LoopbackError) {
        var (seen, since) = (control.frames, start)
        while lanes.contains(where: { !$0.isDone }) {
            usleep(5000)
            try kill(lanes, served)
            let now = linux_monotonic_nanoseconds()
            if case .nanoseconds(let limit) = load.amount, now - start >= limit { control.stop() }
            if isOver() {
                wasInterrupted = true
                control.stop()
            }
            if control.frames != seen { (seen, since) = (control.frames, now) }
            if now - since > Self.patience { for lane in lanes { lane.abandon() } }
        }
    }
}

extension NetRun {
    private func kill(_ lanes: [NetLane], _ served: ServedInterface) throws(LoopbackError) {
        guard var series = kills else { return }
        defer { kills = series }
        do throws(LoopbackError) {
            try served.kill(&series) { [control] in
                lanes.contains { !$0.isDone } && !control.isStopping ? control.frames : nil
            }
        } catch {
            for lane in lanes { lane.abandon() }
            throw error
        }
    }
}

/// One queue of a load: its rings, and the thread that drives them.
///
/// The load is the thread's while it runs, and the owner's before and after.
private final class NetLane: @unchecked Sendable {
    let published: PublishedQueue
    private let load: NetLoad
    private let pattern: FramePattern
    private let limit: UInt64
    private let processor: Int32?
    private var transmit: TransmitLane?
    private var receive: ReceiveLane?
    private let ports: (transmit: GuestPort, receive: GuestPort)
    private var result = NetReport.Share()
    private var fault: NetLoadFault?
    private var thread: JoinableThread?
    private let done = Atomic<Bool>(false)
    private let abandoned = Atomic<Bool>(false)

    init(
        _ domain: GuestDomain, _ load: NetLoad, _ index: Int, _ limit: UInt64, _ processor: Int32?
    ) throws(Fault) {
        pattern = FramePattern(
            seed: load.seed, lane: UInt16(truncatingIfNeeded: index), bytes: load.frameBytes,
            isSegmented: load.isSegmented)
        let transmit = try TransmitLane(
            domain, backend: DomainID(0), frames: load.framesOnTheirWay, longest: load.frameBytes)
        let receive = try ReceiveLane(domain, backend: DomainID(0))
        published = PublishedQueue(
            transmit: transmit.ringReference, receive: receive.ringReference, transmitPort: transmit.port.number,
            receivePort: receive.port.number)
        ports = (transmit.port, receive.port)
        self.transmit = consume transmit
        self.receive = consume receive
        self.load = load
        self.limit = limit
        self.processor = processor
    }

    var isDone: Bool { done.load(ordering: .acquiring) }

    /// Ends the thread's wait for a backend that does nothing.
    func abandon() {
        abandoned.store(true, ordering: .relaxed)
        ports.transmit.wake()
        ports.receive.wake()
    }

    func start(_ control: NetLoadControl, _ interface: String) throws(Fault) {
        thread = try JoinableThread(name: "netfront") { [self] in
            if let processor { _ = linux_pin(processor) }
            do throws(NetLoadFault) {
                try load.direction == .toTap ? send(control, interface) : take(control, interface)
            } catch {
                fault = error
                control.stop()
            }
            done.store(true, ordering: .releasing)
        }
    }

    private func send(_ control: NetLoadControl, _ interface: String) throws(NetLoadFault) {
        guard let lane = transmit.take() else { return }
        let arrivals = load.verifies ? try Self.socket(interface, receives: true) : nil
        let start = linux_thread_nanoseconds()
        var sending = TransmitLoad(
            lane, pattern, limit: limit, verifiedAt: arrivals, mayLose: load.killNanoseconds != nil)
        try sending.run(control) { abandoned.load(ordering: .relaxed) }
        result = NetReport.Share(
            frames: sending.sent, frontendNanoseconds: linux_thread_nanoseconds() - start, refused: sending.refused,
            verified: sending.verified,
            notifications: sending.notifications, lost: sending.lost, doubled: sending.doubled)
    }

    private func take(_ control: NetLoadControl, _ interface: String) throws(NetLoadFault) {
        guard let lane = receive.take() else { return }
        let sender = try Self.socket(interface, receives: false)
        var taking = ReceiveLoad(
            lane, pattern, sender, limit: limit, verifies: load.verifies, mayLose: load.killNanoseconds != nil)
        try taking.run(control) { abandoned.load(ordering: .relaxed) }
        result = NetReport.Share(
            frames: taking.delivered, frontendNanoseconds: taking.threadNanoseconds, verified: taking.verified,
            notifications: taking.notifications,
            nanoseconds: taking.nanoseconds, lost: taking.lost, doubled: taking.doubled)
    }

    private static func socket(_ interface: String, receives: Bool) throws(NetLoadFault) -> PacketSocket {
        do throws(Fault) { return try PacketSocket(interface, receives: receives) } catch { throw .host(error) }
    }

    /// Waits for the end of `start`'s thread and adds what it did.
    func finish(_ report: inout NetReport) throws(LoopbackError) {
        thread?.join()
        thread = nil
        if let fault { throw LoopbackError(fault) }
        guard !abandoned.load(ordering: .relaxed) else {
            throw .frame("frames are missing: \(result.frames) arrived, then none for seconds")
        }
        report.add(result)
    }
}

extension NetReport {
    /// One lane's part.
    struct Share {
        var frames: UInt64 = 0
        var frontendNanoseconds: UInt64 = 0
        var refused: UInt64 = 0
        var verified: UInt64 = 0
        var notifications: UInt64 = 0
        /// Where it is not the whole load's.
        var nanoseconds: UInt64?
        var lost: UInt64 = 0
        var doubled: UInt64 = 0
    }

    mutating func add(_ share: Share) {
        frames += share.frames
        frontendNanoseconds += share.frontendNanoseconds
        refused += share.refused
        verified += share.verified
        notifications += share.notifications
        lost += share.lost
        doubled += share.doubled
        if let own = share.nanoseconds { nanoseconds = own }
    }
}

extension LoopbackError {
    init(_ fault: NetLoadFault) {
        switch fault {
        case .backend(let misbehaviour): self = .netBackend(misbehaviour)
        case .host(let fault): self = .host(fault)
        case .outOfOrder(let expected, let number): self = .frame("frame \(number) came where \(expected) was expected")
        case .differs(let number): self = .frame("frame \(number) is not what was sent")
        }
    }
}
