import Demonstration
import Glibc
import Loopback
import Uring

/// What the demonstration does, in its order.
struct Demo {
    let output: String
    let watch: DemoWatch
    private let daemon = Surroundings.ownDirectory + "/xen-blkbackd"
    /// For everything that is measured, so that both sides have the same to spend.
    private let processor = RunSetting.currentProcessor

    private static let mebibytes = 64
    private static let secondsPerRun = 3
    private static let workloads = [
        ReadWorkload(.random, blockBytes: 4096, depth: 1), ReadWorkload(.random, blockBytes: 4096, depth: 32),
        ReadWorkload(.sequential, blockBytes: 131_072, depth: 8),
    ]

    init(output: String, watch: DemoWatch) {
        self.output = output
        self.watch = watch
    }

    func run() throws {
        let scratch = try ScratchDirectory(in: Surroundings.temporaryDirectory)
        let image = try FileSystemImage(
            in: scratch.path, mebibytes: Self.mebibytes, seed: 1, milliseconds: watch.milliseconds,
            isOver: { watch.isOver })
        say(
            "image", "\(Self.mebibytes) MiB of ext4 with \(image.contents.files) files, made by mke2fs, mounted nowhere"
        )
        try verify(image)
        let comparisons = try measure(image, scratch)
        Output.text("\n" + TextTable(comparisons).lines.map { $0 + "\n" }.joined() + "\n")
        try LatencyPicture(comparisons, subtitle: subtitle).write(to: output)
        say("picture", "\(output): the distribution of these latencies")
        try network()
    }

    private func say(_ subject: String, _ text: String) {
        Output.text(subject + String(repeating: " ", count: max(10 - subject.count, 1)) + text + "\n")
    }

    // ---- Verification

    private func verify(_ image: FileSystemImage) throws {
        let served = try ServedDisk(image.path, daemon: daemon, temporary: Surroundings.temporaryDirectory)
        say("backend", "xen-blkbackd, process \(served.daemonProcess), serves it to a blkfront over a shared ring")
        let start = Wall.steadyNanoseconds
        let sectors = try served.check(against: image.path, isOver: { watch.isOver })
        let seconds = Double(Wall.steadyNanoseconds - start) / 1e9
        let blocks = Quantity.grouped(Double(sectors / 8))
        let rate = Quantity.grouped(Double(sectors) * 512 / 1e6 / max(seconds, 1e-9))
        say("verified", "\(blocks) blocks of 4 KiB, all there are, equal the file's; \(rate) MB/s with the comparison")
        try served.detach()
    }

    // ---- Measurement

    private func measure(_ image: FileSystemImage, _ scratch: ScratchDirectory) throws -> [ReadComparison] {
        say("measuring", "\(Self.secondsPerRun) s each through the ring and by fio, all on processor \(processor)")
        var fio: FioReference? = try FioReference(image.path, scratch.path, processor: processor, watch: watch)
        return try Self.workloads.map { workload in
            let ring = try measureRing(workload, image)
            do {
                let reference = try fio?.run(workload, seconds: Self.secondsPerRun)
                return ReadComparison(workload, ring: ring, reference: reference)
            } catch {
                guard !watch.isOver else { throw error }
                say("fio", "\(error): the ring's figures stand alone")
                fio = nil
                return ReadComparison(workload, ring: ring, reference: nil)
            }
        }
    }

    private func measureRing(_ workload: ReadWorkload, _ image: FileSystemImage) throws -> ReadFigures {
        let setting = RunSetting(
            daemon: daemon, temporary: Surroundings.temporaryDirectory, processors: (processor, processor))
        let options = JobOptions(workload, volume: image.path, seconds: Self.secondsPerRun)
        let report = try BlockRun(options, setting) { _ in watch.isOver }.run()
        guard !report.wasInterrupted else { throw Failure(description: "not done within a minute") }
        guard report.errors == 0 else {
            throw Failure(description: "\(report.errors) reads were answered with an error")
        }
        return ReadFigures(report)
    }

    // ---- Network

    /// Last, because the thread is in a network of its own afterwards.
    private func network() throws {
        // Only reads the path.
        guard geteuid() == 0, unsafe access("/dev/net/tun", W_OK) == 0 else {
            return say("network", "SKIPPED: root and /dev/net/tun are needed")
        }
        for direction in NetLoad.Direction.allCases {
            try carry(NetLoad(direction: direction, frameBytes: 1514, amount: .frames(20_000), verifies: true))
            try carry(
                NetLoad(
                    direction: direction, frameBytes: 65_226, isSegmented: true, amount: .frames(1000), verifies: true))
        }
    }

    private func carry(_ load: NetLoad) throws {
        let setting = RunSetting(
            daemon: Surroundings.ownDirectory + "/xen-netbackd", temporary: Surroundings.temporaryDirectory)
        let report = try NetRun(load, setting) { watch.isOver }.run()
        guard !report.wasInterrupted else { throw Failure(description: "not done within a minute") }
        let way = load.direction == .toTap ? "guest to host" : "host to guest"
        let frames = Quantity.grouped(Double(report.verified))
        say("network", "\(way): \(frames) frames of \(load.frameBytes) bytes through xen-netbackd, all equal")
    }

    private var subtitle: String {
        "xen-blkbackd: through a ring; fio: the same file without one. \(Self.mebibytes) MiB in the page cache, one processor"
    }
}

/// fio on the same file, with the interface to the kernel that the daemon uses here.
struct FioReference {
    private let volume: String
    private let directory: String
    private let processor: Int32
    private let watch: DemoWatch
    private let engine: String

    init(_ volume: String, _ directory: String, processor: Int32, watch: DemoWatch) throws {
        self.volume = volume
        self.directory = directory
        self.processor = processor
        self.watch = watch
        engine = try EngineChoice(for: .auto).kind.rawValue
    }

    func run(_ workload: ReadWorkload, seconds: Int) throws -> ReadFigures {
        let run = FioRun(
            workload, volume: volume, engine: engine, processor: processor, seconds: seconds,
            report: "\(directory)/fio.json")
        try HostTool("fio", run.arguments, log: "\(directory)/fio.log")
            .run(milliseconds: min(watch.milliseconds, (seconds + 10) * 1000), isOver: { watch.isOver })
        return try ReadFigures(fioReportAt: run.report)
    }
}
