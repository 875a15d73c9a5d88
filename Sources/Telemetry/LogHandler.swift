internal import Glibc
public import Logging

/// Writes one line per message to standard error, where systemd's journal or a terminal reads it.
public struct StandardErrorLogHandler: LogHandler {
    public var logLevel: Logger.Level
    public var metadata: Logger.Metadata = [:]
    private let label: String
    /// Lines begin with `<n>`, a syslog priority (sd-daemon(3)).
    private let hasPriority: Bool
    private let budget: LineBudget

    /// - Parameter hasPriority: standard error goes to the journal (the environment variable JOURNAL_STREAM is set).
    public init(label: String, level: Logger.Level, hasPriority: Bool) {
        self.label = label
        budget = LineBudget(now: Self.now)
        self.hasPriority = hasPriority
        logLevel = level
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        guard case .write(let suppressed) = budget.decide(now: Self.now) else { return }
        if suppressed > 0 { write(line(.warning, "\(suppressed) lines were not written", [:])) }
        write(line(event.level, event.message.description, event.metadata ?? [:]))
    }

    /// CLOCK_MONOTONIC, nanoseconds.
    private static var now: UInt64 {
        var time = timespec()
        // The value is local; the clock exists.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    /// A message as it is written. Control characters, which a guest could smuggle in with a value, are replaced: one
    /// message is one line.
    func line(_ level: Logger.Level, _ message: String, _ more: Logger.Metadata) -> String {
        let all = metadata.merging(more) { _, new in new }
        let subject = all["device"].map { "\($0): " } ?? ""
        let rest = all.filter { $0.key != "device" }.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }
            .joined()
        let prefix = hasPriority ? "<\(Self.priority(level))>" : "\(label): \(level): "
        return Self.printable(prefix + subject + message + rest) + "\n"
    }

    private static func printable(_ text: String) -> String {
        String(
            String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
    }

    /// One write(2) per line, so that lines of several threads do not mix.
    private func write(_ line: String) {
        var line = line
        // The bytes live for the call; a log that cannot be written cannot be helped.
        line.withUTF8 { bytes in _ = unsafe Glibc.write(STDERR_FILENO, bytes.baseAddress, bytes.count) }
    }

    /// syslog(3).
    private static func priority(_ level: Logger.Level) -> Int {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }
}
