internal import CLinux

/// What tells this run of the host from others (random(4)).
public enum BootIdentity {
    /// `boot_id`, or `unknown`.
    public static var current: String {
        var buffer = [UInt8](repeating: 0, count: 64)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file("/proc/sys/kernel/random/boot_id", &buffer, buffer.count)
        guard got > 0 else { return "unknown" }
        return String(decoding: buffer.prefix(got).filter { $0 > 0x20 }, as: UTF8.self)
    }
}

/// Signals by which the process ends for a fault of its own.
public enum FaultWatch {
    /// Has threads that asked for it record them. Once, before there are threads.
    public static func start() { linux_watch_faults() }
}
