import Glibc
import Loopback

/// One line about a long run on standard error: rewritten on a terminal, a new one every few seconds elsewhere.
final class ProgressLine {
    private let job: JobOptions
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private var last: RunProgress?
    private var shown = false

    init(_ job: JobOptions) { self.job = job }

    /// Nanoseconds between two lines.
    private var interval: UInt64 { isTerminal ? 250_000_000 : 5_000_000_000 }

    func show(_ progress: RunProgress?) {
        guard let progress else { return }
        let passed = progress.elapsed &- (last?.elapsed ?? 0)
        guard passed >= interval else { return }
        let rate = (progress.finished &- (last?.finished ?? 0)) * 1_000_000_000 / max(passed, 1)
        last = progress
        let line = "\(job.name): \(progress.isReadBack ? "reading back, " : "")\(position(progress)), \(rate) IOPS"
        Output.error(isTerminal ? "\r\u{1b}[K\(line)" : "\(line)\n")
        shown = isTerminal
    }

    private func position(_ progress: RunProgress) -> String {
        let seconds = progress.elapsed / 1_000_000_000
        if let runtime = job.runtimeNanoseconds { return "\(seconds) of \(runtime / 1_000_000_000) s" }
        return "\(seconds) s, \(progress.finished) I/Os"
    }

    /// Takes the line away again.
    func clear() {
        if shown { Output.error("\r\u{1b}[K") }
        shown = false
    }
}
