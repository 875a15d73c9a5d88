internal import CLinux
internal import Descriptors
internal import Glibc

/// Starts a daemon again whenever it is killed or fails, as its unit says under systemd, and keeps open what it leaves for the
/// next process.
public struct Supervisor: ~Copyable {
    private let program: String
    private let arguments: [String]
    private let signals: TerminationSignals
    private let store: DescriptorStore
    private let report: (String) -> Void

    /// Milliseconds to wait for another supervisor of the same daemon. Its daemon may have ended, and it not yet: a device that
    /// came since is this one's.
    private static let patience: UInt32 = 5000

    /// Supervises until the daemon ends for good, unless somebody does so already: between a death and the next process the
    /// daemon's own lock is free, and whoever took it then would be without the descriptors that are kept here.
    ///
    /// - Parameters:
    ///   - socket: the store's, in a directory that is nobody else's; beside it lies the lock.
    ///   - report: takes a line about what failed and is tried again.
    /// - Returns: the exit status with which the daemon has ended for good.
    public static func run(
        _ program: String, _ arguments: [String], socket: String, report: @escaping (String) -> Void
    ) throws -> Int32 {
        let lock = try FileLock(socket + ".lock", patience: patience)
        let signals = try TerminationSignals()
        let status = try Supervisor(
            program: program, arguments: arguments, signals: signals, store: DescriptorStore(at: socket), report: report
        ).run()
        // Not before the socket is removed: the next one's has the same name.
        _ = consume lock
        return status
    }

    private func run() throws(Fault) -> Int32 {
        var (hasRun, isEnding) = (false, false)
        while true {
            var end: ChildProcess.End?
            do throws(Fault) {
                let child = try ChildProcess(service: program, arguments, store: store)
                hasRun = true
                end = awaitEnd(of: child, &isEnding)
            } catch {
                guard hasRun else { throw error }
                report("\(error), trying again")
            }
            switch Step(after: end, isEnding: isEnding) {
            case .end(let status): return status
            case .restart(let pause): if isTold(within: pause) { return ExitStatus.done }
            }
        }
    }

    /// Serves the store, and passes signals on: the daemon ends what is in flight, and this one with it.
    private func awaitEnd(of child: ChildProcess, _ isEnding: inout Bool) -> ChildProcess.End {
        while true {
            do throws(Fault) {
                if try hasEnded(child) { return child.wait() }
            } catch {
                // What cannot be watched for lack of memory or descriptors is looked at now and then.
                if let end = child.ended { return end }
                guard error.code != ESRCH else { return child.wait() }
                usleep(UInt32(Step.pause) * 1000)
            }
            while let signal = signals.takeNumber() {
                isEnding = true
                child.signal(signal)
            }
        }
    }

    /// Returns when it has, or a signal has come.
    private func hasEnded(_ child: ChildProcess) throws(Fault) -> Bool {
        let end = try OwnedDescriptor(linux_process_descriptor(child.identifier), "watch process \(child.identifier)")
        return try store.serve(until: [end.number, signals.descriptor])[0]
    }

    /// A signal has come, before any of the next process.
    private func isTold(within milliseconds: Int32) -> Bool {
        do throws(Fault) {
            return try Poll.readable([signals.descriptor], milliseconds: milliseconds)[0]
        } catch {
            usleep(UInt32(milliseconds) * 1000)
            return false
        }
    }
}

extension Supervisor {
    /// What follows the end of a process.
    enum Step: Equatable {
        case end(status: Int32)
        /// After so many milliseconds.
        case restart(pause: Int32)

        /// Between a death and the next process: RestartSec= of the units.
        static let pause: Int32 = 100
        /// Where it is not known that the next attempt goes better; a daemon that failed has taken its time itself.
        static let longPause: Int32 = 1000

        /// - Parameters:
        ///   - end: nil if it could not be started: its file is just being replaced, or memory is short.
        ///   - isEnding: a signal has come, and was passed on.
        init(after end: ChildProcess.End?, isEnding: Bool) {
            switch end {
            case .exited(ExitStatus.done), .exited(ExitStatus.usage), .exited(ExitStatus.taken): self = .final(end)
            case .some where isEnding: self = .final(end)
            case .exited(ExitStatus.again): self = .restart(pause: 0)
            case .killed, .exited(ExitStatus.failed): self = .restart(pause: Self.pause)
            case .exited, nil: self = .restart(pause: Self.longPause)
            }
        }

        /// As shells say it.
        private static func final(_ end: ChildProcess.End?) -> Step {
            switch end {
            case .exited(let status): .end(status: status)
            case .killed(let signal): .end(status: 128 + signal)
            case nil: .end(status: ExitStatus.failed)
            }
        }
    }
}
