internal import CLinux
public import Descriptors

/// SIGTERM, SIGINT and SIGHUP as something to poll. Made before any thread is started, because threads inherit that
/// those signals are blocked.
public struct TerminationSignals: ~Copyable, Sendable {
    private let source: OwnedDescriptor

    /// Blocks the signals from now on; SIGPIPE is ignored.
    public init() throws(Fault) {
        source = try OwnedDescriptor(linux_termination_signals(), "receive signals")
    }

    /// Readable when a signal has come.
    public var descriptor: Int32 { source.number }

    /// The next signal, or nil.
    func takeNumber() -> Int32? {
        let number = linux_take_signal(source.number)
        return number == 0 ? nil : number
    }

    /// The next signal's name, or nil.
    public func take() -> String? {
        switch takeNumber() {
        case nil: nil
        case SIGTERM: "SIGTERM"
        case SIGINT: "SIGINT"
        case SIGHUP: "SIGHUP"
        case let other?: "signal \(other)"
        }
    }
}
