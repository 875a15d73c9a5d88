internal import Telemetry
internal import XenWire

// What the status file says about a disk.
extension DeviceSession {
    var status: JSON {
        [
            "volume": .string(volume.name), "file": volume.backingFile.map { .string($0) } ?? .null,
            "engine": .string(engine), "direct": .flag(volume.isDirect),
            "read_only": .flag(volume.isReadOnly), "sectors": .number(description.sectors),
            "sector_size": .number(UInt64(description.sectorSize)), "protocol": .string("\(connection.abi)"),
            "fence_wait_ns": fence?.waited.map { .number($0) } ?? .null,
            "queues": .array(queues.map { QueueStatus($0).json }),
        ]
    }
}

/// One queue's figures.
private struct QueueStatus {
    let condition: QueueCondition
    let counters: QueueCounters

    init(_ queue: QueueThread) {
        condition = queue.condition
        counters = queue.counters
    }

    var json: JSON {
        [
            "condition": .string(conditionText),
            "operations": .object(CountedOperation.allCases.map { .init("\($0)", operation(counters[$0])) }),
            "violations": .object(
                Violation.allCases.filter { counters[$0] > 0 }.map { .init($0.name, .number(counters[$0])) }),
            "events": .object(QueueEvent.allCases.map { .init("\($0)", .number(counters[$0])) }),
        ]
    }

    private var conditionText: String {
        switch condition {
        case .running: "running"
        case .violated(let violation): "violated: \(violation.name)"
        case .failed(let fault): "failed: \(fault)"
        case .paused(let fault): "paused: \(fault)"
        }
    }

    private func operation(_ figures: QueueCounters.Operation) -> JSON {
        [
            "requests": .number(figures.latency.total), "sectors": .number(figures.sectors),
            "errors": .number(figures.errors), "latency_ns": latency(figures.latency),
        ]
    }

    private func latency(_ histogram: HistogramSnapshot) -> JSON {
        [
            "mean": .decimal(histogram.mean), "p50": .number(histogram.quantile(0.5)),
            "p90": .number(histogram.quantile(0.9)), "p99": .number(histogram.quantile(0.99)),
            "p99.9": .number(histogram.quantile(0.999)),
        ]
    }
}
