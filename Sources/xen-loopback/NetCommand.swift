import ArgumentParser
import Glibc
import Loopback
import Service
import Telemetry

enum Direction: String, ExpressibleByArgument, CaseIterable {
    case toTap = "to-tap"
    case fromTap = "from-tap"

    var load: NetLoad.Direction { self == .toTap ? .toTap : .fromTap }
}

/// `xen-loopback net`
struct NetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "net",
        abstract: "Serves a network interface with xen-netbackd and sends frames through it.",
        discussion: """
            Everything happens in a network namespace of its own, which needs root. The guest's side is a netfront with the \
            checks of Linux' and Windows'; the host's side is the TAP device vif1.0. To the TAP device frames are sent as \
            fast as the ring takes them; from it they are taken in bursts, of which only the guest's part is timed.
            """)

    @Option(help: "to-tap or from-tap.")
    var direction = Direction.toTap
    @Option(help: ArgumentHelp("Bytes of a frame, Ethernet header included (with --gso: 65226).", valueName: "N"))
    var frame: Int?
    @Flag(help: "Frames are large TCP segments that are not cut here.")
    var gso = false
    @Option(help: ArgumentHelp("Queues, 1 to 8, each with a thread; from-tap: 1.", valueName: "N"))
    var queues = 1
    @Option(help: ArgumentHelp("Frames to the TAP device on their way at most, per queue.", valueName: "N"))
    var depth = 256
    @Option(help: ArgumentHelp("How long.", valueName: "S"))
    var seconds: Double = 2
    @Option(help: ArgumentHelp("How many frames, instead of how long.", valueName: "N"))
    var packets: UInt64?
    @Flag(help: "Each frame is another one, and compared where it arrives.")
    var verify = false
    @Option(help: ArgumentHelp("What the frames' bytes follow from.", valueName: "N"))
    var seed: UInt64 = 1
    @Option(
        help: ArgumentHelp(
            "Kills the daemon so often, and starts it again at once; with --verify up to a ring of frames may be lost or "
                + "come twice for each.", valueName: "MS"))
    var killEvery: UInt64?
    @Flag(help: "One JSON object instead of text.")
    var json = false
    @Option(
        help: ArgumentHelp(
            "Instead: carries frames between vif1.0 and this TAP device, until a signal.", valueName: "NAME"))
    var relay: String?
    @Option(
        help: ArgumentHelp("For --relay: both devices' network namespaces, like /run/netns/a.", valueName: "PATH,PATH"))
    var namespaces: String?
    @OptionGroup(title: "Run") var place: PlaceOptions

    func run() throws {
        let signals = try TerminationSignals()
        let setting = try place.setting("xen-netbackd")
        if let relay { return try carry(to: relay, setting, stop: signals.descriptor) }
        let report = try NetRun(try load(), setting) { [signals = SignalWatch(signals.descriptor)] in
            signals.hasCome
        }.run()
        Output.text(json ? report.json.text + "\n" : report.text)
        _ = signals.take()
        if report.wasInterrupted { throw ExitCode(1) }
    }

    /// "ready" is said when both devices are there; whoever reads it gives them addresses.
    private func carry(to name: String, _ setting: RunSetting, stop: Int32) throws {
        let paths = (namespaces ?? "").split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        try check("namespaces", namespaces ?? "", paths.count == 2, "must be two paths")
        let relay = try NetRelay(name, near: paths[0], far: paths[1], setting)
        let kills = try relay.run(stop: stop, killNanoseconds: try killNanoseconds()) { Output.text("ready\n") }
        guard let kills else { return }
        Output.text(json ? JSON.object([.init("kills", kills.json)]).text + "\n" : "kills \(kills.text)\n")
    }

    private func killNanoseconds() throws -> UInt64? {
        guard let killEvery else { return nil }
        try check("kill-every", "\(killEvery)", (1...3_600_000).contains(killEvery), "must be from 1 to 3600000")
        return killEvery * 1_000_000
    }

    private func load() throws -> NetLoad {
        let bytes = frame ?? (gso ? 65_226 : 64)
        try check("frame", "\(bytes)", FramePattern.lengths.contains(bytes), "must be from 62 to 65549")
        try check("frame", "\(bytes)", gso || bytes <= 1514, "longer than 1514 needs --gso")
        try check("queues", "\(queues)", (1...8).contains(queues), "must be from 1 to 8")
        try check("queues", "\(queues)", queues == 1 || direction == .toTap, "from-tap has one")
        try check("depth", "\(depth)", (1...256).contains(depth), "must be from 1 to 256")
        try check("seconds", "\(seconds)", seconds > 0 && seconds <= 86_400, "must be above 0 and a day at most")
        return NetLoad(
            direction: direction.load, frameBytes: bytes, isSegmented: gso, queues: queues, depth: depth,
            amount: packets.map { .frames($0) } ?? .nanoseconds(UInt64(seconds * 1e9)), verifies: verify, seed: seed,
            killNanoseconds: try killNanoseconds())
    }

    private func check(_ name: String, _ value: String, _ holds: Bool, _ rule: String) throws {
        if !holds { throw UsageError(description: "--\(name) \(value): \(rule)") }
    }
}
