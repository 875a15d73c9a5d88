import ArgumentParser
import Demonstration
import Glibc
import Loopback
import Service

/// `xen-loopback demo`
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Serves an ext4 image and a network interface, verifies what goes through, and measures against fio.",
        discussion: """
            Makes an ext4 image of generated files (mke2fs -d; nothing is mounted), starts xen-blkbackd on it, reads every \
            block through a blkfront and compares it with the file, prints throughput and latency beside fio's on the same \
            file, and draws the latencies. Then, as root, frames go through xen-netbackd both ways and are compared. Takes \
            half a minute, and no more than one.
            """)

    @Option(help: ArgumentHelp("Where the picture goes (SVG).", valueName: "PATH"))
    var output = "./xen-loopback-demo.svg"

    func run() throws {
        try checkOutput()
        let watch = DemoWatch(try TerminationSignals())
        do {
            try Demo(output: output, watch: watch).run()
        } catch {
            throw watch.isInterrupted ? Failure(description: "interrupted") : error
        }
    }

    /// Before the work and not after it.
    private func checkOutput() throws {
        let directory = output.lastIndex(of: "/").map { output[...$0] } ?? "./"
        // Only reads the path.
        guard unsafe access(String(directory), W_OK) == 0 else {
            throw Failure(description: "--output \(output): its directory must be one that can be written to")
        }
    }
}

/// When to end early: a signal, or a minute.
final class DemoWatch {
    private let signals: TerminationSignals
    private let end = Wall.steadyNanoseconds + 60_000_000_000

    init(_ signals: consuming TerminationSignals) {
        self.signals = signals
    }

    var isInterrupted: Bool { SignalWatch(signals.descriptor).hasCome }
    var isOver: Bool { isInterrupted || Wall.steadyNanoseconds >= end }
    /// What is left of the minute.
    var milliseconds: Int { Int(clamping: (end - min(Wall.steadyNanoseconds, end)) / 1_000_000) }
}
