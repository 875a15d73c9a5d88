public import Descriptors
internal import Glibc

/// What a daemon's executable reads from its environment, for everything below it.
public struct Environment: Sendable {
    /// sd_notify(3).
    public let notifySocket = Self.value("NOTIFY_SOCKET")
    /// sd_listen_fds(3).
    public let leftDescriptors = LeftDescriptors(
        LISTEN_PID: Self.value("LISTEN_PID"), LISTEN_FDS: Self.value("LISTEN_FDS"),
        LISTEN_FDNAMES: Self.value("LISTEN_FDNAMES"))
    /// systemd.exec(5): standard error goes to the journal.
    public let isUnderJournal = Self.value("JOURNAL_STREAM") != nil
    /// Where xenstore is, as libxenstore takes it: a socket or a device; the directory of xenstored's socket.
    public let xenstorePath = Self.value("XENSTORED_PATH")
    public let xenstoreDirectory = Self.value("XENSTORED_RUNDIR")

    public init() {}

    private static func value(_ name: String) -> String? {
        // Nobody changes the environment; the text is copied at once.
        unsafe getenv(name).map { unsafe String(cString: $0) }
    }
}
