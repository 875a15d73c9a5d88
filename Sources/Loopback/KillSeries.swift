internal import CLinux
internal import Descriptors
internal import Glibc
public import Telemetry

/// The daemon is killed again and again while it serves, and started anew at once.
public struct KillSeries: Sendable {
    /// Nanoseconds between the first response of a process and the next kill.
    private let interval: UInt64
    private var due: UInt64
    /// Nanoseconds from each start of a process (execve(2)) to its first response.
    public private(set) var pauses: [UInt64] = []
    /// Nanoseconds of these for which a process waited until its predecessor's I/O was over, where it says so.
    public private(set) var fenceWaits: [UInt64] = []
    /// What was left of those pauses without it.
    private var remainders: [UInt64] = []

    /// How long a new process may take for its first response.
    private static let patience: UInt64 = 20_000_000_000
    /// For the guest to take what was answered before the kill.
    private static let settling: UInt32 = 2000

    init(every interval: UInt64) {
        self.interval = interval
        due = linux_monotonic_nanoseconds() &+ interval
    }

    public var kills: Int { pauses.count }

    /// The pause that so large a part of all kills stayed below.
    public func pause(quantile: Double) -> UInt64 { Self.quantile(quantile, of: pauses) }

    private static func quantile(_ quantile: Double, of times: [UInt64]) -> UInt64 {
        let sorted = times.sorted()
        guard !sorted.isEmpty else { return 0 }
        return sorted[min(sorted.count - 1, Int(quantile * Double(sorted.count)))]
    }

    /// Kills the daemon if it is time, and waits for its successor's first response.
    ///
    /// - Parameter progress: changes with every response; nil when there is nothing left to answer.
    mutating func go(_ world: LoopbackWorld, progress: () -> UInt64?) throws(LoopbackError) {
        guard linux_monotonic_nanoseconds() >= due, progress() != nil else { return }
        try world.killDaemon()
        usleep(Self.settling)
        let before = progress()
        // Returns when the program has taken over (execve(2)).
        try world.startDaemonAgain()
        let start = linux_monotonic_nanoseconds()
        while before != nil, progress() == before {
            guard linux_monotonic_nanoseconds() &- start < Self.patience else {
                throw .notOffered("kill \(kills + 1): no response within 20 s after the daemon was started again")
            }
            guard world.daemon?.ended == nil else {
                throw .notOffered("kill \(kills + 1): the daemon that was started again has ended")
            }
            usleep(100)
        }
        let now = linux_monotonic_nanoseconds()
        pauses.append(now &- start)
        if let wait = world.fenceWait() {
            fenceWaits.append(wait)
            remainders.append(now &- start &- min(wait, now &- start))
        }
        due = linux_monotonic_nanoseconds() &+ interval
    }
}

extension KillSeries {
    /// `12, from start to first response: p50 14.2, p99 20.1, max 20.1 ms; of that for I/O in flight: p50 3.0, ...`
    public var text: String {
        "\(kills), from start to first response: \(Self.text(pauses))"
            + (fenceWaits.isEmpty
                ? "" : "; of that for I/O in flight: \(Self.text(fenceWaits)), without: \(Self.text(remainders))")
    }

    private static func text(_ times: [UInt64]) -> String {
        func milliseconds(_ part: Double) -> String { fixed(Double(quantile(part, of: times)) / 1e6, 1) }
        return "p50 \(milliseconds(0.5)), p99 \(milliseconds(0.99)), max \(milliseconds(1)) ms"
    }

    /// The same, in nanoseconds.
    public var json: JSON {
        .object(
            [.init("count", .number(UInt64(kills)))] + Self.json("pause", pauses)
                + (fenceWaits.isEmpty ? [] : Self.json("fence_wait", fenceWaits) + Self.json("remainder", remainders)))
    }

    private static func json(_ name: String, _ times: [UInt64]) -> [JSON.Member] {
        [("p50", 0.5), ("p99", 0.99), ("max", 1)].map { suffix, part in
            .init("\(name)_ns_\(suffix)", .number(quantile(part, of: times)))
        }
    }
}
