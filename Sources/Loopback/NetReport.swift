public import Telemetry

/// What came of a load of frames.
public struct NetReport: Sendable {
    public var load: NetLoad
    public var frames: UInt64 = 0
    /// Frames that the backend answered with anything but "sent".
    public var refused: UInt64 = 0
    /// Frames that were compared, all equal to what was sent.
    public var verified: UInt64 = 0
    /// Of the load; towards the guest without the time in which bursts are sent.
    public var nanoseconds: UInt64 = 0
    /// The daemon's processor time.
    public var backendNanoseconds: UInt64 = 0
    /// The frontend's, likewise without what sends bursts.
    public var frontendNanoseconds: UInt64 = 0
    /// Events sent to the backend.
    public var notifications: UInt64 = 0
    public var wasInterrupted = false
    /// How often the daemon was killed, and what came of it: frames that did not arrive, and those that did twice.
    public var kills: KillSeries?
    public var lost: UInt64 = 0
    public var doubled: UInt64 = 0

    init(load: NetLoad) { self.load = load }

    private var seconds: Double { Double(nanoseconds) / 1e9 }
    public var framesPerSecond: Double { Double(frames) / max(seconds, 1e-9) }
    public var gigabitsPerSecond: Double { framesPerSecond * Double(load.frameBytes) * 8 / 1e9 }
    /// Per second of processor time of both: what one processor that has nothing else to do would do.
    public var framesPerProcessorSecond: Double {
        Double(frames) * 1e9 / Double(max(backendNanoseconds + frontendNanoseconds, 1))
    }
    public var backendNanosecondsPerFrame: Double { Double(backendNanoseconds) / Double(max(frames, 1)) }

    /// For people.
    public var text: String {
        let kind = load.isSegmented ? "segmented frames" : "frames"
        let way = load.direction == .toTap ? "guest to TAP device" : "TAP device to guest"
        var lines = [
            "\(way): \(Quantity.grouped(Double(frames))) \(kind) of \(load.frameBytes) bytes in "
                + "\(Quantity.fixed(seconds, decimals: 2)) s, \(load.queues) \(load.queues == 1 ? "queue" : "queues")",
            "  rate      \(Quantity.grouped(framesPerSecond)) frames/s, "
                + "\(Quantity.fixed(gigabitsPerSecond, decimals: 2)) Gbit/s",
            "  backend   \(Quantity.grouped(backendNanosecondsPerFrame)) ns of processor time per frame, one event for "
                + "\(Quantity.grouped(Double(frames) / Double(max(notifications, 1)))) frames",
        ]
        if load.verifies { lines.append("  verified  \(Quantity.grouped(Double(verified))) frames, all equal") }
        if refused > 0 { lines.append("  refused   \(Quantity.grouped(Double(refused))) frames") }
        if let kills {
            lines.append("  kills     \(kills.text)")
            lines.append(
                "  lost      \(Quantity.grouped(Double(lost))) frames, "
                    + "\(Quantity.grouped(Double(doubled))) came twice")
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// For programs.
    public var json: JSON {
        let more: [JSON.Member] =
            kills.map {
                [
                    .init("kills", $0.json), .init("lost", .number(lost)), .init("doubled", .number(doubled)),
                ]
            } ?? []
        return .object(members + more)
    }

    private var members: [JSON.Member] {
        let members: KeyValuePairs<String, JSON> = [
            "direction": .string(load.direction.rawValue), "frame_bytes": .number(UInt64(load.frameBytes)),
            "segmented": .flag(load.isSegmented), "queues": .number(UInt64(load.queues)),
            "depth": .number(UInt64(load.depth)), "frames": .number(frames), "refused": .number(refused),
            "verified": .number(verified), "seconds": .decimal(seconds), "frames_per_second": .decimal(framesPerSecond),
            "frames_per_cpu_second": .decimal(framesPerProcessorSecond),
            "gigabits_per_second": .decimal(gigabitsPerSecond), "notifications": .number(notifications),
            "backend_cpu_ns_per_frame": .decimal(backendNanosecondsPerFrame),
        ]
        return members.map { JSON.Member($0.key, $0.value) }
    }
}
