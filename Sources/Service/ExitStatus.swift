/// With which exit statuses daemons end; their units and `Supervisor` go by them.
public enum ExitStatus {
    /// After the last device, or a signal.
    public static let done: Int32 = 0
    /// Something is missing or broken; perhaps not for long.
    public static let failed: Int32 = 1
    /// A wrong command line stays wrong.
    public static let usage: Int32 = 2
    /// Another process serves the same.
    public static let taken: Int32 = 3
    /// A device came when the process was about to end (EX_TEMPFAIL of sysexits.h).
    public static let again: Int32 = 75

    /// Of a process that ends with an error.
    public static func of(_ error: any Error) -> Int32 {
        guard case .taken? = error as? StateDirectoryError else { return failed }
        return taken
    }
}
