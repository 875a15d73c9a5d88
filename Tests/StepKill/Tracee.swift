import CStepKill
import Glibc

/// A backend process in the tracer's hand: stopped, except while one of these calls runs it.
struct Tracee {
    enum Outcome: Equatable {
        /// By itself: ready to begin, or with nothing left to do.
        case stopped
        /// After as many instructions as it was told.
        case stepped
        case ended(String)

        fileprivate init(_ result: Int32) {
            self =
                switch result {
                case STEP_STOPPED + SIGSTOP: .stopped
                case STEP_STOPPED + SIGTRAP: .stepped
                case ..<0: .ended("errno \(-result)")
                case ..<STEP_STOPPED: .ended("exit code \(result)")
                default: .ended("signal \(result % STEP_STOPPED)")
                }
        }
    }

    fileprivate let pid: Int32

    /// Forks; the new process runs `body` until it stops.
    init(_ body: () -> Never) throws {
        pid = step_fork()
        if pid == 0 { body() }
        guard pid > 0, Outcome(step_wait(pid)) == .stopped else { throw Failure("a process cannot be traced") }
    }

    private init(pid: Int32) { self.pid = pid }

    fileprivate func copy() throws -> Tracee? {
        let copy = step_copy(pid)
        guard copy >= 0 else { throw Failure("a process cannot be copied: errno \(-copy)") }
        return copy > 0 ? Tracee(pid: copy) : nil
    }

    func resume() -> Outcome { Outcome(step_resume(pid)) }

    /// Does so many instructions, or fewer if it stops; how many it did.
    func advance(_ count: Int) -> (done: Int, outcome: Outcome) {
        var done = 0
        let outcome = unsafe Outcome(step_advance(pid, count, &done))
        return (done, outcome)
    }
}

/// The processes that live.
final class Herd {
    private var pids: Set<Int32> = []

    /// Nil if the process is stopping by itself, and can only be killed.
    func copy(of tracee: Tracee) throws -> Tracee? {
        guard let copy = try tracee.copy() else { return nil }
        pids.insert(copy.pid)
        return copy
    }

    func kill(_ tracee: Tracee) {
        guard pids.remove(tracee.pid) != nil else { return }
        _ = step_kill(tracee.pid)
    }

    func killAll() {
        for pid in pids { _ = step_kill(pid) }
        pids.removeAll()
    }
}
