public import XenWire

/// An option that makes no sense: its name and value as they were written, and the rule that they break.
public struct JobOptionError: Error, Equatable, Sendable {
    public var key: String
    public var value: String
    public var rule: String
}

/// fio's `rw`.
public enum AccessPattern: String, CaseIterable, Sendable {
    case read, write, randread, randwrite, rw, randrw

    public var isRandom: Bool { self == .randread || self == .randwrite || self == .randrw }
    public var writes: Bool { self != .read && self != .randread }
    public var isMixed: Bool { self == .rw || self == .randrw }
}

/// What one load on one disk is to be. The names and meanings are fio's where fio has them.
public struct JobOptions: Sendable, Equatable {
    public var name = "blk"
    /// A device, a file, or `null`; fio's `filename`.
    public var volume = ""
    public var pattern = AccessPattern.read
    /// Bytes of one I/O, `bs`.
    public var blockBytes = 4096
    /// I/Os in flight of one job.
    public var depth = 1
    /// Multiplies the depth and the number of I/Os.
    public var jobs = 1
    /// Bytes of the volume that are used; nil means all.
    public var sizeBytes: UInt64?
    /// Starts over at the end of `size` until the time is over.
    public var runtimeNanoseconds: UInt64?
    /// I/Os of one job, `number_ios`.
    public var numberOfIOs: UInt64?
    /// nil leaves it to the daemon.
    public var direct: Bool?
    /// The daemon's, `io_uring` or `libaio`; nil leaves it to the daemon.
    public var engine: String?
    /// Percent of reads in a mix.
    public var readPercent = 50
    public var verify: SectorChecksum?
    /// nil: as many as the depth needs.
    public var ringPages: UInt32?
    /// nil: one for each job.
    public var queues: Int?
    /// Segments of an indirect request, 0 for none; nil: what the backend offers.
    public var indirectSegments: UInt16?
    public var offersPersistent = false
    public var abi = BlockABI.native
    /// Pages are granted for every request; otherwise once.
    public var grantsPerRequest = true
    /// The daemon is killed so long after its first response, and started again.
    public var killNanoseconds: UInt64?

    public init() {}

    /// Every option by name, as on the command line and, with `_` or `-`, in job files.
    public static let keys: [String] = settings.map(\.key)

    /// Sets an option from its text.
    public mutating func set(_ key: String, _ value: String) throws(JobOptionError) {
        let name = Self.aliases[key] ?? String(key.map { $0 == "_" ? "-" : $0 })
        guard let setting = Self.settings.first(where: { $0.key == name }) else {
            throw JobOptionError(key: key, value: value, rule: "there is no such option")
        }
        do throws(Rule) {
            try setting.apply(&self, value)
        } catch {
            throw JobOptionError(key: key, value: value, rule: error.text)
        }
    }

    /// fio's other names for the same things.
    private static let aliases = [
        "filename": "volume", "readwrite": "rw", "blocksize": "bs", "ioengine": "engine", "runtime_sec": "runtime",
    ]

    struct Rule: Error { let text: String }

    private struct Setting: Sendable {
        let key: String
        let apply: @Sendable (inout JobOptions, String) throws(Rule) -> Void
        init(_ key: String, _ apply: @escaping @Sendable (inout JobOptions, String) throws(Rule) -> Void) {
            self.key = key
            self.apply = apply
        }
    }

    private static let settings: [Setting] = [
        Setting("name") { options, text throws(Rule) in options.name = text },
        Setting("volume") { options, text throws(Rule) in
            guard !text.isEmpty else { throw Rule(text: "must be a device, a file, or null") }
            options.volume = text
        },
        Setting("rw") { options, text throws(Rule) in
            options.pattern = try oneOf(AccessPattern.self, text)
        },
        Setting("bs") { options, text throws(Rule) in
            let bytes = try bytes(text)
            guard bytes >= 512, bytes <= 16 << 20, bytes % 512 == 0 else {
                throw Rule(text: "must be a multiple of 512 bytes, at most 16m")
            }
            options.blockBytes = Int(bytes)
        },
        Setting("iodepth") { options, text throws(Rule) in options.depth = Int(try number(text, 1...4096)) },
        Setting("numjobs") { options, text throws(Rule) in options.jobs = Int(try number(text, 1...64)) },
        Setting("size") { options, text throws(Rule) in
            let bytes = try bytes(text)
            guard bytes >= 512 else { throw Rule(text: "must be at least 512 bytes") }
            options.sizeBytes = bytes
        },
        Setting("runtime") { options, text throws(Rule) in options.runtimeNanoseconds = try duration(text) },
        Setting("number-ios") { options, text throws(Rule) in
            options.numberOfIOs = try number(text, 1...UInt64(Int32.max))
        },
        Setting("direct") { options, text throws(Rule) in options.direct = try flag(text) },
        Setting("engine") { options, text throws(Rule) in
            guard ["io_uring", "libaio"].contains(text) else { throw Rule(text: "must be io_uring or libaio") }
            options.engine = text
        },
        Setting("rwmixread") { options, text throws(Rule) in options.readPercent = Int(try number(text, 0...100)) },
        Setting("verify") { options, text throws(Rule) in
            options.verify = try oneOf(SectorChecksum.self, text)
        },
        Setting("ring-pages") { options, text throws(Rule) in
            let pages = try number(text, 1...16)
            guard pages.nonzeroBitCount == 1 else { throw Rule(text: "must be 1, 2, 4, 8 or 16") }
            options.ringPages = UInt32(pages)
        },
        Setting("queues") { options, text throws(Rule) in options.queues = Int(try number(text, 1...8)) },
        Setting("indirect") { options, text throws(Rule) in
            options.indirectSegments = UInt16(try number(text, 0...4096))
        },
        Setting("persistent") { options, text throws(Rule) in options.offersPersistent = try flag(text) },
        Setting("protocol") { options, text throws(Rule) in
            guard let abi = ["native": BlockABI.native, "x86_64": .native, "x86_32": .x86_32][text] else {
                throw Rule(text: "must be native, x86_64 or x86_32")
            }
            options.abi = abi
        },
        Setting("grants") { options, text throws(Rule) in
            guard ["request", "slot"].contains(text) else { throw Rule(text: "must be request or slot") }
            options.grantsPerRequest = text == "request"
        },
        Setting("kill-every") { options, text throws(Rule) in
            guard let milliseconds = UInt64(text), 1...3_600_000 ~= milliseconds else {
                throw Rule(text: "must be milliseconds, from 1 to 3600000")
            }
            options.killNanoseconds = milliseconds * 1_000_000
        },
    ]

    /// What the options must be together.
    public func check() throws(JobOptionError) {
        guard !volume.isEmpty else {
            throw JobOptionError(key: "volume", value: "", rule: "is required: a device, a file, or null")
        }
        if runtimeNanoseconds != nil, numberOfIOs != nil {
            throw JobOptionError(key: "number-ios", value: "\(numberOfIOs ?? 0)", rule: "excludes runtime")
        }
        if let verify, volume == "null" {
            throw JobOptionError(
                key: "verify", value: verify.rawValue, rule: "needs a volume that keeps what is written")
        }
        if let sizeBytes, sizeBytes < UInt64(blockBytes) {
            throw JobOptionError(key: "size", value: "\(sizeBytes)", rule: "must be at least bs, \(blockBytes)")
        }
    }
}

// How values are written.
extension JobOptions {
    private static func oneOf<Value: RawRepresentable<String> & CaseIterable>(
        _ type: Value.Type, _ text: String
    ) throws(Rule) -> Value {
        if let value = Value(rawValue: text) { return value }
        throw Rule(text: "must be one of " + Value.allCases.map(\.rawValue).joined(separator: ", "))
    }

    private static func number(_ text: String, _ range: ClosedRange<UInt64>) throws(Rule) -> UInt64 {
        guard let value = UInt64(text), range.contains(value) else {
            throw Rule(text: "must be a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    private static func flag(_ text: String) throws(Rule) -> Bool {
        guard text == "0" || text == "1" else { throw Rule(text: "must be 0 or 1") }
        return text == "1"
    }

    /// fio's sizes: `4096`, `4k`, `64m`, `1g`; units are powers of 1024.
    static func bytes(_ text: String) throws(Rule) -> UInt64 {
        let rule = Rule(text: "must be a size like 4096, 4k, 64m or 1g")
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let units = ["": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40]
        var unit = text.dropFirst(digits.count).lowercased()
        for ending in ["ib", "b"] where unit.count > 1 && unit.hasSuffix(ending) { unit.removeLast(ending.count) }
        guard let value = UInt64(digits), let shift = units[unit] else { throw rule }
        let (bytes, overflow) = value.multipliedReportingOverflow(by: 1 << UInt64(shift))
        guard !overflow else { throw rule }
        return bytes
    }

    /// fio's times: `10` and `10s` are seconds; `600ms`, `5m`, `1h`.
    static func duration(_ text: String) throws(Rule) -> UInt64 {
        let rule = Rule(text: "must be a time above 0 like 10, 600ms, 5m or 1h")
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let units: [String: UInt64] = [
            "": 1_000_000_000, "s": 1_000_000_000, "us": 1000, "ms": 1_000_000, "m": 60_000_000_000,
            "h": 3_600_000_000_000,
        ]
        guard let value = UInt64(digits), let unit = units[text.dropFirst(digits.count).lowercased()] else {
            throw rule
        }
        let (nanoseconds, overflow) = value.multipliedReportingOverflow(by: unit)
        guard !overflow, nanoseconds > 0 else { throw rule }
        return nanoseconds
    }
}
