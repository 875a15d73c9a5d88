import ArgumentParser
import Glibc
import Service

/// `xen-backctl supervise`
struct SuperviseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supervise",
        abstract: "Runs a daemon where systemd does not, and starts it again when it is killed or fails.",
        discussion: """
            The queues of TAP devices stay open between two processes of xen-netbackd, so that what waits in them for a \
            guest does not get lost. SIGTERM, SIGINT and SIGHUP are passed on.

            Exit status: the daemon's, if that is 0, 2 or 3, or it was sent a signal; 1 if it cannot be started at all, 3 if \
            another process has the lock PATH.lock.
            """)

    @Option(
        help: ArgumentHelp(
            "The socket to be made for the daemon's messages, in a directory that is nobody else's.", valueName: "PATH")
    )
    var socket: String

    @Argument(help: "The program.")
    var program: String

    @Argument(parsing: .captureForPassthrough, help: "Its arguments.")
    var arguments: [String] = []

    func run() throws {
        let status: Int32
        do {
            status = try Supervisor.run(program, arguments, socket: socket, report: Self.report)
        } catch {
            Self.report("\(error)")
            status = ExitStatus.of(error)
        }
        if status != 0 { throw ExitCode(status) }
    }

    private static func report(_ text: String) {
        var line = "xen-backctl: \(text)\n"
        // The bytes live for the call.
        line.withUTF8 { bytes in _ = unsafe write(STDERR_FILENO, bytes.baseAddress, bytes.count) }
    }
}
