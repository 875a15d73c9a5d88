import ArgumentParser
import Glibc
import Loopback
import Service
import Telemetry

enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case normal, json
}

/// `xen-loopback blk`
struct BlockCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blk",
        abstract: "Serves a volume with xen-blkbackd and puts a load on it through a blkfront.",
        discussion: """
            The options are fio's where fio has them, and so is a job file's syntax. Sections of a job file run one \
            after the other. With --runtime the load starts over at the end of --size until the time is over.
            """)

    @Argument(help: ArgumentHelp("A job file in fio's syntax.", valueName: "JOBFILE.fio"))
    var jobFile: String?

    @OptionGroup(title: "Load") var load: LoadOptions
    @OptionGroup(title: "Run") var setting: SettingOptions

    @Option(help: "How results are printed: normal, or json in fio's own layout.")
    var outputFormat: OutputFormat = .normal

    func run() throws {
        let jobs = try jobs()
        let signals = try TerminationSignals()
        var reports: [RunReport] = []
        for job in jobs {
            let progress = ProgressLine(job)
            let run = try BlockRun(job, setting.setting()) { [signals = SignalWatch(signals.descriptor)] seen in
                progress.show(seen)
                return signals.hasCome
            }
            let report = try run.run()
            progress.clear()
            reports.append(report)
            if outputFormat == .normal { Output.text(report.text) }
            if report.wasInterrupted { break }
        }
        if outputFormat == .json { Output.text(RunReport.json(reports, time: Wall.nanoseconds).text + "\n") }
        _ = signals.take()
        try judge(reports)
    }

    private func jobs() throws -> [JobOptions] {
        if let jobFile {
            guard load.isEmpty else { throw UsageError(description: "a job file excludes the options of a load") }
            let text = try TextFile.read(jobFile)
            do throws(JobFileError) {
                return try JobFile.parse(text, file: jobFile)
            } catch {
                throw UsageError(description: "\(error)")
            }
        }
        return [try load.options()]
    }

    private func judge(_ reports: [RunReport]) throws {
        let errors = reports.reduce(0) { $0 + $1.errors }
        if errors > 0 { throw Failure(description: "\(errors) I/Os were answered with an error") }
        if reports.contains(where: \.wasInterrupted) { throw ExitCode(1) }
    }
}

struct Failure: Error, CustomStringConvertible {
    let description: String
}

/// A job's options, each as text: `JobOptions` knows what they may be, here and in job files.
struct LoadOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A device, a logical volume, a file, or null.", valueName: "PATH|null"))
    var volume: String?
    @Option(help: "read, write, randread, randwrite, rw or randrw.")
    var rw: String?
    @Option(help: "Bytes of one I/O (default: 4k).")
    var bs: String?
    @Option(help: ArgumentHelp("I/Os in flight (default: 1).", valueName: "N"))
    var iodepth: String?
    @Option(help: ArgumentHelp("Multiplies depth and I/Os, and the queues unless they are given.", valueName: "N"))
    var numjobs: String?
    @Option(help: ArgumentHelp("Bytes of the volume that are used (default: all).", valueName: "S"))
    var size: String?
    @Option(help: ArgumentHelp("How long, like 10, 600ms or 5m.", valueName: "SEC"))
    var runtime: String?
    @Option(help: ArgumentHelp("How many I/Os (default: as many as size holds).", valueName: "N"))
    var numberIos: String?
    @Option(help: ArgumentHelp("The daemon's I/O goes around the page cache.", valueName: "0|1"))
    var direct: String?
    @Option(help: ArgumentHelp("The daemon's: io_uring or libaio.", valueName: "E"))
    var engine: String?
    @Option(help: ArgumentHelp("Percent of reads in a mix (default: 50).", valueName: "P"))
    var rwmixread: String?
    @Option(
        help: ArgumentHelp("Writes sectors that can be told apart, and compares what is read.", valueName: "crc32c|md5")
    )
    var verify: String?
    @Option(help: ArgumentHelp("Pages of a ring: 1, 2, 4, 8 or 16 (default: as the depth needs).", valueName: "N"))
    var ringPages: String?
    @Option(help: ArgumentHelp("Queues, 1 to 8, each with a thread (default: numjobs).", valueName: "N"))
    var queues: String?
    @Option(
        help: ArgumentHelp(
            "Segments of a request at most, 0 for no indirect ones (default: as offered).", valueName: "N"))
    var indirect: String?
    @Option(help: ArgumentHelp("The frontend offers persistent grants.", valueName: "0|1"))
    var persistent: String?
    @Option(name: .customLong("protocol"), help: "native, x86_64 or x86_32.")
    var abi: String?
    @Option(help: ArgumentHelp("Pages are granted for each request, or once for each slot.", valueName: "request|slot"))
    var grants: String?
    @Option(
        help: ArgumentHelp(
            "Kills the daemon so long after its first response and starts it again, over and over.", valueName: "MS"))
    var killEvery: String?

    private var given: [(String, String)] {
        let all: [(String, String?)] = [
            ("volume", volume), ("rw", rw), ("bs", bs), ("iodepth", iodepth), ("numjobs", numjobs), ("size", size),
            ("runtime", runtime), ("number-ios", numberIos), ("direct", direct), ("engine", engine),
            ("rwmixread", rwmixread), ("verify", verify), ("ring-pages", ringPages), ("queues", queues),
            ("indirect", indirect), ("persistent", persistent), ("protocol", abi), ("grants", grants),
            ("kill-every", killEvery),
        ]
        return all.compactMap { name, value in value.map { (name, $0) } }
    }

    var isEmpty: Bool { given.isEmpty }

    func options() throws -> JobOptions {
        do throws(JobOptionError) {
            var options = JobOptions()
            for (name, value) in given { try options.set(name, value) }
            try options.check()
            return options
        } catch {
            let value = error.value.isEmpty ? "" : " \(error.value)"
            throw UsageError(description: "--\(error.key)\(value): \(error.rule)")
        }
    }
}

/// Where and with what a load runs; not part of a job file.
struct SettingOptions: ParsableArguments {
    @OptionGroup var place: PlaceOptions
    @Option(help: ArgumentHelp("The frontend spins instead of sleeping.", valueName: "0|1"))
    var frontendPoll = "0"

    func setting() throws -> RunSetting {
        guard ["0", "1"].contains(frontendPoll) else {
            throw UsageError(description: "--frontend-poll \(frontendPoll): must be 0 or 1")
        }
        var setting = try place.setting("xen-blkbackd")
        setting.frontendPolls = frontendPoll == "1"
        return setting
    }
}
