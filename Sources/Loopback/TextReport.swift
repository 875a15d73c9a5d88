internal import Telemetry
internal import XenWire

extension RunReport {
    /// The report for people, laid out as fio's.
    public var text: String {
        var lines = [headline]
        if read.ios + read.errors > 0 { lines += described(read, "read") }
        if write.ios + write.errors > 0 { lines += described(write, "write") }
        lines.append(
            "  cpu          : frontend \(each(frontendNanoseconds)) ns/IO, backend \(each(backendNanoseconds)) ns/IO")
        lines.append(
            "  events       : \(each(notifications, 3)) notifications/IO to the backend, "
                + "\(each(wakeups, 3)) wake-ups/IO of the frontend")
        lines.append("  ring         : \(ringText)")
        if options.offersPersistent {
            let isUsed = disk?.offersPersistent == true
            lines.append("  persistent   : offered, \(isUsed ? "used" : "not used: the backend does not want them")")
        }
        if let verify = options.verify {
            lines.append("  verify       : \(verify.rawValue), \(verifiedSectors) sectors compared, all as written")
        }
        if let kills { lines.append("  kills        : \(kills.text)") }
        return lines.map { $0 + "\n" }.joined()
    }

    private var headline: String {
        "\(options.name): rw=\(options.pattern.rawValue), bs=\(options.blockBytes)B, iodepth=\(options.depth), "
            + "numjobs=\(options.jobs), volume=\(options.volume): err=\(errors > 0 ? 5 : 0)"
    }

    private var ringText: String {
        let segments = disk?.indirectSegments ?? 0
        return "\(queues) \(queues == 1 ? "queue" : "queues") of \(ringPages) \(ringPages == 1 ? "page" : "pages"), "
            + "\(options.abi == .native ? "native" : "x86_32") protocol, "
            + (segments > 0 ? "up to \(segments) indirect segments" : "no indirect segments")
    }

    private func each(_ total: UInt64, _ digits: Int = 0) -> String {
        ios > 0 ? fixed(Double(total) / Double(ios), digits) : "-"
    }

    private func described(_ direction: DirectionReport, _ name: String) -> [String] {
        let seconds = max(Double(runtimeNanoseconds) / 1e9, 1e-9)
        let rate = Double(direction.bytes) / seconds
        let unit = LatencyUnit(direction.latency.mean)
        let label = String(repeating: " ", count: max(0, 6 - name.count)) + name
        var lines = [
            "\(label): IOPS=\(short(Double(direction.ios) / seconds)), BW=\(fixed(rate / 1_048_576, 1))MiB/s "
                + "(\(fixed(rate / 1e6, 1))MB/s)(\(fixed(Double(direction.bytes) / 1_048_576, 0))MiB/"
                + "\(runtimeNanoseconds / 1_000_000)msec)",
            "    clat (\(unit.name)): min=\(unit.text(direction.minimum)), max=\(unit.text(direction.maximum)), "
                + "avg=\(fixed(direction.latency.mean / unit.nanoseconds, 2)), "
                + "stdev=\(fixed(direction.deviation / unit.nanoseconds, 2))",
            "    clat percentiles (\(unit.name)):",
        ]
        let cells = DirectionReport.percentiles.map { percent in
            "\(padded(fixed(percent, 2), 5))th=[\(padded(unit.text(direction.percentile(percent)), 7))]"
        }
        for start in stride(from: 0, to: cells.count, by: 4) {
            let row = cells[start..<min(start + 4, cells.count)].joined(separator: ", ")
            lines.append("     | \(row)\(start + 4 < cells.count ? "," : "")")
        }
        if direction.errors > 0 {
            lines.append("    errors     : \(direction.errors) I/Os were answered with an error")
        }
        return lines
    }

    private func padded(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }
}

/// fio's way with large numbers: 7100, 12.3k, 123k, 1.2M.
func short(_ value: Double) -> String {
    switch value {
    case ..<10_000: fixed(value, 0)
    case ..<100_000: fixed(value / 1000, 1) + "k"
    case ..<1_000_000: fixed(value / 1000, 0) + "k"
    default: fixed(value / 1e6, 2) + "M"
    }
}

/// The unit in which latencies around a mean are readable.
private struct LatencyUnit {
    let name: String
    let nanoseconds: Double

    init(_ mean: Double) {
        (name, nanoseconds) = mean < 10_000 ? ("nsec", 1) : mean < 10_000_000 ? ("usec", 1e3) : ("msec", 1e6)
    }

    func text(_ value: UInt64) -> String { fixed(Double(value) / nanoseconds, nanoseconds == 1 ? 0 : 1) }
}
