internal import CLinux
internal import Descriptors
internal import Glibc
internal import Synchronization
internal import XenWire
internal import Xenstore

/// Where and with what a job runs.
public struct RunSetting: Sendable {
    /// The daemon's path.
    public var daemon: String
    /// Where a directory for the world can be made.
    public var temporary: String
    /// The only processors for the frontend's threads and for the daemon.
    public var processors: (frontend: Int32, backend: Int32)?
    /// The frontend spins instead of sleeping.
    public var frontendPolls: Bool

    /// All settings.
    public init(
        daemon: String, temporary: String, processors: (frontend: Int32, backend: Int32)? = nil,
        frontendPolls: Bool = false
    ) {
        self.daemon = daemon
        self.temporary = temporary
        self.processors = processors
        self.frontendPolls = frontendPolls
    }

    /// The processor that the caller runs on just now, so one that it may use.
    public static var currentProcessor: Int32 { max(linux_current_processor(), 0) }
}

/// What came of a job.
public struct RunReport: Sendable {
    public var options: JobOptions
    public var read = DirectionReport()
    public var write = DirectionReport()
    public var runtimeNanoseconds: UInt64 = 0
    /// Processor time of the frontend's threads and of the daemon.
    public var frontendNanoseconds: UInt64 = 0
    public var backendNanoseconds: UInt64 = 0
    /// Notifications sent to the backend, and wake-ups by it.
    public var notifications: UInt64 = 0
    public var wakeups: UInt64 = 0
    public var verifiedSectors: UInt64 = 0
    /// What the whole frontend process used, the model included.
    public var usage = ProcessUsage()
    public var queues = 0
    public var ringPages: UInt32 = 0
    public var disk: FrontendDisk?
    /// How often the daemon was killed, and what came of it.
    public var kills: KillSeries?
    /// Ended early by a signal.
    public var wasInterrupted = false

    public var ios: UInt64 { read.ios + write.ios }
    public var errors: UInt64 { read.errors + write.errors }
}

/// getrusage(2) of this process.
public struct ProcessUsage: Sendable {
    public var userNanoseconds: UInt64 = 0
    public var systemNanoseconds: UInt64 = 0
    public var contextSwitches: UInt64 = 0
    public var majorFaults: UInt64 = 0
    public var minorFaults: UInt64 = 0

    /// So far.
    static var now: ProcessUsage {
        var usage = rusage()
        // Fills in its argument.
        unsafe _ = getrusage(RUSAGE_SELF.rawValue, &usage)
        func nanoseconds(_ time: timeval) -> UInt64 {
            UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_usec) * 1000
        }
        return ProcessUsage(
            userNanoseconds: nanoseconds(usage.ru_utime), systemNanoseconds: nanoseconds(usage.ru_stime),
            contextSwitches: UInt64(usage.ru_nvcsw + usage.ru_nivcsw), majorFaults: UInt64(usage.ru_majflt),
            minorFaults: UInt64(usage.ru_minflt))
    }

    static func - (later: ProcessUsage, earlier: ProcessUsage) -> ProcessUsage {
        ProcessUsage(
            userNanoseconds: later.userNanoseconds &- earlier.userNanoseconds,
            systemNanoseconds: later.systemNanoseconds &- earlier.systemNanoseconds,
            contextSwitches: later.contextSwitches &- earlier.contextSwitches,
            majorFaults: later.majorFaults &- earlier.majorFaults, minorFaults: later.minorFaults &- earlier.minorFaults
        )
    }
}

/// How a job is going, for whoever shows it.
public struct RunProgress: Sendable {
    public var finished: UInt64
    /// Nanoseconds since the load began.
    public var elapsed: UInt64
    /// A second pass reads back and compares.
    public var isReadBack: Bool
}

/// Runs one job on one disk, from the creation of the world to its end.
///
/// Everything happens on the caller's thread but the load itself, which has one thread for each queue.
public final class BlockRun {
    private let options: JobOptions
    private let setting: RunSetting
    private let watch: (RunProgress?) -> Bool
    private let control = LaneControl()
    private var wasInterrupted: Bool { interruption != nil }
    /// When the watch ended the job.
    private var interruption: UInt64?
    private var kills: KillSeries?

    /// What is in flight when a job is ended early is awaited so long.
    private static let patience: UInt64 = 10_000_000_000
    private static let domain = DomainID(1)

    /// - Parameter watch: called a few times a second, with the load's progress while there is one; true ends the job
    ///   early.
    public init(_ options: JobOptions, _ setting: RunSetting, watch: @escaping (RunProgress?) -> Bool) {
        self.options = options
        self.setting = setting
        self.watch = watch
    }

    /// Runs the job.
    public func run() throws(LoopbackError) -> RunReport {
        let world = try LoopbackWorld(in: setting.temporary) { [self] in look(nil) }
        defer { world.end() }
        let size = domainSize
        let (guest, client) = try world.createDomain(Self.domain, pages: size.pages, references: size.references)
        try world.startDaemon(
            setting.daemon, for: Self.domain, daemonOptions, processor: setting.processors?.backend)
        let disk = DiskDescription(
            domain: Self.domain, volume: options.volume, isReadOnly: false)
        do throws(LoopbackError) {
            try world.toolstack.attach(disk)
            let report = try serve(world, guest, client, disk)
            try detach(world, disk)
            return report
        } catch {
            throw world.explained(error)
        }
    }

    private func look(_ progress: RunProgress?) {
        guard interruption == nil else { return }
        if watch(progress) {
            interruption = linux_monotonic_nanoseconds()
            control.stop()
        }
    }

    // ---- Sizes

    private var lanes: Int { options.queues ?? min(options.jobs, 8) }
    private var depthOfLane: Int { (options.depth * options.jobs + lanes - 1) / lanes }

    /// Requests of one I/O, at most: what the ring is made for before the disk is known.
    private var piecesAtMost: Int {
        let pages = (options.blockBytes + 4095) / 4096
        let segments = max(11, Int(options.indirectSegments ?? 256))
        return (pages + segments - 1) / segments
    }

    private var ringPages: UInt32 {
        if let pages = options.ringPages { return pages }
        let needed = UInt32(clamping: depthOfLane * piecesAtMost)
        return [1, 2, 4, 8].first { options.abi.entries(pages: Int($0)) >= needed } ?? 16
    }

    private var slots: UInt16 {
        let entries = Int(options.abi.entries(pages: Int(ringPages)))
        return UInt16(clamping: min(entries, max(depthOfLane, 1) * piecesAtMost))
    }

    /// Segments of a request: what the volume's `bs` needs, as far as `indirect` lets it.
    private var segments: UInt16 {
        let wanted = min((options.blockBytes + 4095) / 4096, max(11, Int(options.indirectSegments ?? 4096)))
        return UInt16(clamping: wanted)
    }

    /// Memory for all queues, with room for reconnecting.
    private var domainSize: (pages: UInt32, references: UInt32) {
        let perSlot = UInt32(segments) + 8
        let needed = UInt32(lanes) * (UInt32(slots) * perSlot + ringPages + 16) + 1024
        return (needed + needed / 512 + 16, needed)
    }

    private var daemonOptions: [String] {
        (options.engine.map { ["--engine", $0] } ?? []) + (options.direct.map { ["--direct", $0 ? "1" : "0"] } ?? [])
            + ["--log-level", "warning"]
    }

    // ---- The load

    private func serve(
        _ world: LoopbackWorld, _ guest: GuestDomain, _ client: XenstoreClient, _ description: DiskDescription
    ) throws(LoopbackError) -> RunReport {
        let path = try Loopback.xenstore { () throws(XenstoreError) in try description.frontendPath }
        let frontend = try BlockFrontend(guest, client, at: path, .polling { [self] in look(nil) })
        let disk = try frontend.connect(
            FrontendOptions(
                abi: options.abi, queues: lanes, ringPages: ringPages, offersPersistent: options.offersPersistent,
                queue: FrontQueueOptions(
                    slots: slots, segments: segments, grantsPerRequest: options.grantsPerRequest)))
        guard frontend.queues.count == lanes else {
            throw .notOffered("--queues \(lanes): the backend offers \(frontend.queues.count)")
        }
        var report = RunReport(options: options)
        report.disk = disk
        report.queues = lanes
        report.ringPages = ringPages
        let plan = try JobPlan(options, disk, lanes: lanes)
        try load(plan, frontend, world, &report)
        report.wasInterrupted = wasInterrupted
        try frontend.close()
        return report
    }

    private func load(
        _ plan: JobPlan, _ frontend: BlockFrontend, _ world: LoopbackWorld, _ report: inout RunReport
    ) throws(LoopbackError) {
        let lanes = frontend.queues.enumerated().map { Lane(plan, $0.offset, $0.element, setting) }
        let before = world.daemonNanoseconds
        kills = options.killNanoseconds.map { KillSeries(every: $0) }
        let usage = ProcessUsage.now
        let start = linux_monotonic_nanoseconds()
        try run(lanes, .load, world, since: start)
        report.runtimeNanoseconds = linux_monotonic_nanoseconds() - start
        report.usage = ProcessUsage.now - usage
        report.backendNanoseconds = UInt64(clamping: world.daemonNanoseconds - before)
        for lane in lanes { lane.add(to: &report) }
        if plan.isVerifying, options.pattern.writes, !wasInterrupted {
            try run(lanes, .readBack, world, since: start)
        }
        report.kills = kills
        report.verifiedSectors = lanes.reduce(0) { $0 + $1.verifiedSectors }
    }

    private func run(
        _ lanes: [Lane], _ phase: LaneCore.Phase, _ world: LoopbackWorld, since start: UInt64
    ) throws(LoopbackError) {
        try host { () throws(Fault) in for lane in lanes { try lane.start(phase, control) } }
        while lanes.contains(where: { !$0.isDone }) {
            usleep(10_000)
            try kills?.go(world) {
                lanes.contains { !$0.isDone } ? lanes.reduce(0) { $0 &+ $1.progress.count } : nil
            }
            if world.daemon?.ended != nil || isPatienceOver {
                control.abandon()
                for lane in lanes { lane.wake() }
            }
            let finished = lanes.reduce(0) { $0 + $1.progress.count }
            look(
                RunProgress(
                    finished: finished, elapsed: linux_monotonic_nanoseconds() - start, isReadBack: phase == .readBack))
        }
        for lane in lanes {
            if let misbehaviour = lane.join() { throw .backend(misbehaviour) }
        }
        if control.isAbandoned {
            throw .notOffered("the daemon \(isPatienceOver ? "does not answer" : "ended while it served a disk")")
        }
    }

    private var isPatienceOver: Bool {
        interruption.map { linux_monotonic_nanoseconds() &- $0 > Self.patience } ?? false
    }

    private func detach(_ world: LoopbackWorld, _ disk: DiskDescription) throws(LoopbackError) {
        try world.toolstack.remove(disk)
        try world.toolstack.destroyDomain(Self.domain)
        // The last device is gone, so the daemon has nothing left to do.
        if world.awaitDaemon(milliseconds: 20_000) == nil {
            throw .notOffered("the daemon still runs 20 s after its last device is gone")
        }
    }
}

/// One queue's load and its thread.
///
/// The core is the thread's while it runs, and the owner's before and after.
private final class Lane: @unchecked Sendable {
    let progress = LaneProgress()
    private var core: LaneCore
    private let box: FrontQueueBox
    private let port: GuestPort
    private let setting: RunSetting
    private var thread: JoinableThread?
    private var outcome: BackendMisbehaviour?
    private var processorNanoseconds: UInt64 = 0
    private let done = Atomic<Bool>(false)

    init(_ plan: JobPlan, _ index: Int, _ box: FrontQueueBox, _ setting: RunSetting) {
        let slots = box.withQueue { $0.capacity }
        port = box.withQueue { $0.port }
        core = LaneCore(plan, lane: index, slots: slots, progress)
        self.box = box
        self.setting = setting
    }

    /// Ends the thread's wait for the backend.
    func wake() { port.wake() }

    var isDone: Bool { done.load(ordering: .acquiring) }
    var verifiedSectors: UInt64 { core.verifiedSectors }

    func start(_ phase: LaneCore.Phase, _ control: LaneControl) throws(Fault) {
        done.store(false, ordering: .relaxed)
        thread = try JoinableThread(name: "blkfront") { [self] in
            if let processor = setting.processors?.frontend { _ = linux_pin(processor) }
            let before = linux_thread_nanoseconds()
            do throws(BackendMisbehaviour) {
                try box.withQueue { queue throws(BackendMisbehaviour) in
                    try core.run(phase, on: &queue, control, polling: setting.frontendPolls)
                }
            } catch {
                outcome = error
                control.stop()
            }
            processorNanoseconds = linux_thread_nanoseconds() &- before
            done.store(true, ordering: .releasing)
        }
    }

    /// Waits for the end of `start`'s thread; what the backend did wrong, if it did.
    func join() -> BackendMisbehaviour? {
        thread?.join()
        thread = nil
        return outcome
    }

    func add(to report: inout RunReport) {
        let (read, write) = core.reports
        report.read = report.read.merged(read)
        report.write = report.write.merged(write)
        report.frontendNanoseconds += processorNanoseconds
        report.notifications += box.withQueue { $0.notifications }
        report.wakeups += core.wakeups
    }
}
