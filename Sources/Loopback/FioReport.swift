public import Telemetry

extension RunReport {
    /// The report in the layout of fio 3.33's JSON, for scripts that read that; what fio does not have is in `frontend`,
    /// `backend` and `loopback`.
    public static func json(_ reports: [RunReport], time: UInt64) -> JSON {
        .object([
            .init("fio version", "fio-3.33"), .init("timestamp", .number(time / 1_000_000_000)),
            .init("timestamp_ms", .number(time / 1_000_000)),
            .init("jobs", .array(reports.enumerated().map { $1.json(group: UInt64($0)) })),
            .init("disk_util", .array([])),
        ])
    }

    private func json(group: UInt64) -> JSON {
        let seconds = Double(runtimeNanoseconds) / 1e9
        return .object(
            [
                .init("jobname", .string(options.name)), .init("groupid", .number(group)),
                .init("error", .number(errors > 0 ? 5 : 0)), .init("eta", .number(0)),
                .init("elapsed", .number(runtimeNanoseconds / 1_000_000_000)), .init("job options", optionsJSON),
                .init("read", json(read)), .init("write", json(write)), .init("trim", json(DirectionReport())),
                .init("job_runtime", .number(runtimeNanoseconds / 1_000_000)),
                .init("usr_cpu", .decimal(percent(usage.userNanoseconds, seconds))),
                .init("sys_cpu", .decimal(percent(usage.systemNanoseconds, seconds))),
                .init("ctx", .number(usage.contextSwitches)), .init("majf", .number(usage.majorFaults)),
                .init("minf", .number(usage.minorFaults)), .init("latency_depth", .number(UInt64(options.depth))),
                .init("latency_target", .number(0)), .init("latency_percentile", .decimal(100)),
                .init("latency_window", .number(0)), .init("frontend", frontendJSON), .init("backend", backendJSON),
                .init("loopback", loopbackJSON),
            ] + (kills.map { [.init("kills", $0.json)] } ?? []))
    }

    private func percent(_ nanoseconds: UInt64, _ seconds: Double) -> Double {
        seconds > 0 ? Double(nanoseconds) / 1e7 / seconds : 0
    }

    private var optionsJSON: JSON {
        var members: [JSON.Member] = [
            .init("name", .string(options.name)), .init("filename", .string(options.volume)),
            .init("rw", .string(options.pattern.rawValue)), .init("bs", .string("\(options.blockBytes)")),
            .init("iodepth", .string("\(options.depth)")), .init("numjobs", .string("\(options.jobs)")),
        ]
        if let size = options.sizeBytes { members.append(.init("size", .string("\(size)"))) }
        if let count = options.numberOfIOs { members.append(.init("number_ios", .string("\(count)"))) }
        if let direct = options.direct { members.append(.init("direct", direct ? "1" : "0")) }
        if let verify = options.verify { members.append(.init("verify", .string(verify.rawValue))) }
        return .object(members)
    }

    private func json(_ direction: DirectionReport) -> JSON {
        let seconds = Double(runtimeNanoseconds) / 1e9
        let rate = { (count: UInt64) in seconds > 0 ? Double(count) / seconds : 0 }
        return .object([
            .init("io_bytes", .number(direction.bytes)), .init("io_kbytes", .number(direction.bytes / 1024)),
            .init("bw_bytes", .number(UInt64(rate(direction.bytes)))),
            .init("bw", .number(UInt64(rate(direction.bytes) / 1024))), .init("iops", .decimal(rate(direction.ios))),
            .init("runtime", .number(direction.ios > 0 ? runtimeNanoseconds / 1_000_000 : 0)),
            .init("total_ios", .number(direction.ios)), .init("short_ios", .number(0)),
            .init("drop_ios", .number(direction.errors)), .init("slat_ns", DirectionReport().latencyJSON()),
            .init("clat_ns", direction.latencyJSON(percentiles: true)), .init("lat_ns", direction.latencyJSON()),
        ])
    }

    private func each(_ total: UInt64) -> JSON { .decimal(ios > 0 ? Double(total) / Double(ios) : 0) }

    private var frontendJSON: JSON {
        ["cpu_ns_per_io": each(frontendNanoseconds), "notifications_per_io": each(notifications)]
    }

    private var backendJSON: JSON {
        ["cpu_ns_per_io": each(backendNanoseconds), "wakeups_per_io": each(wakeups)]
    }

    private var loopbackJSON: JSON {
        [
            "queues": .number(UInt64(queues)), "ring_pages": .number(UInt64(ringPages)),
            "segments_per_request": .number(UInt64(disk?.maximumSegments ?? 0)),
            "persistent": .flag(options.offersPersistent && disk?.offersPersistent == true),
            "verified_sectors": .number(verifiedSectors),
        ]
    }
}

extension DirectionReport {
    /// The percentiles that fio shows.
    static let percentiles: [Double] = [
        1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99,
    ]

    /// The latency below which so many percent of all I/Os stayed, never outside of what was measured.
    func percentile(_ percent: Double) -> UInt64 {
        ios == 0 ? 0 : min(max(latency.quantile(percent / 100), minimum), maximum)
    }

    fileprivate func latencyJSON(percentiles: Bool = false) -> JSON {
        var members: [JSON.Member] = [
            .init("min", .number(minimum)), .init("max", .number(maximum)), .init("mean", .decimal(latency.mean)),
            .init("stddev", .decimal(deviation)), .init("N", .number(ios)),
        ]
        if percentiles, ios > 0 {
            let values = Self.percentiles.map { JSON.Member(fixed($0, 6), .number(percentile($0))) }
            members.append(.init("percentile", .object(values)))
        }
        return .object(members)
    }
}

/// A number with so many digits behind the point, rounded.
func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
    let scale = (0..<digits).reduce(1) { scale, _ in scale * 10 }
    let scaled = Int((abs(value) * Double(scale)).rounded())
    let fraction = String(scaled % scale)
    let sign = value < 0 && scaled > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(scaled)" }
    return "\(sign)\(scaled / scale)." + String(repeating: "0", count: digits - fraction.count) + fraction
}
