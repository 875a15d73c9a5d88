internal import CLinux
public import Descriptors
internal import Glibc

/// What the kernel allows this process.
public enum ProcessLimits {
    /// Processors that this kernel runs on; at least 1. Not those that this process is bound to: a guest, and what ends
    /// its I/O, run on others too.
    public static var processors: Int { Int(linux_online_processors()) }

    /// Descriptors enough for the most queues (each has a ring mapping, an event channel and an io_uring), locked memory for
    /// io_uring's buffers, no core files with guests' data in them, and memory for I/O without waiting for our own I/O.
    ///
    /// - Returns: what was not allowed; a daemon can run without.
    public static func adjust() -> [Fault] {
        var refused: [Fault] = []
        func check(_ result: Int32, _ operation: String) {
            if result < 0 { refused.append(Fault(operation, errno: -result)) }
        }
        check(linux_raise_limit(linux_limit_open_files, 65_536), "raise the limit of open files")
        check(linux_raise_limit(linux_limit_locked_memory, .max), "raise the limit of locked memory")
        check(linux_deny_resource(linux_limit_core), "switch core files off")
        check(linux_set_io_flusher(), "become an I/O flusher")
        return refused
    }
}
