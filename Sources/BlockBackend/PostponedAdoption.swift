internal import Descriptors
internal import Glibc
internal import Xenbus

/// A connected guest's rings that cannot be served for want of something that the host may have again in a moment.
struct PostponedAdoption {
    let frontend: NodeValues
    let backend: NodeValues
    /// They are an earlier process's; else the guest's new ones, in the place of some that were served.
    let adopts: Bool
    /// On the device's clock, in nanoseconds.
    private let since: UInt64

    init(_ frontend: NodeValues, _ backend: NodeValues, adopts: Bool, since: UInt64) {
        self.frontend = frontend
        self.backend = backend
        self.adopts = adopts
        self.since = since
    }

    /// Half of the time after which Linux calls a task hung that waits for a disk (hung_task_timeout_secs).
    private static let patience: UInt64 = 60_000_000_000

    /// A volume may be brought back (a path to it, a mount), and memory freed: what killed the last process may have been
    /// its lack. What contradicts the journal, or breaks a rule, will go on doing so.
    func mayGoOn(after error: any Error, now: UInt64) -> Bool {
        guard now &- since < Self.patience else { return false }
        guard let fault = error as? Fault else { return error is VolumeError }
        return [ENOMEM, EAGAIN, EMFILE, ENFILE].contains(fault.code)
    }
}
