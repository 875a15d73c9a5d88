import ArgumentParser
import Service

/// `xen-backctl supervise`
struct SuperviseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supervise",
        abstract: "Runs a daemon where systemd does not, and starts it again when it is killed.",
        discussion: """
            The queues of TAP devices stay open between two processes of xen-netbackd, so that what waits in them for a \
            guest does not get lost. Ends when the daemon ends by itself, with its exit status.
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
        let status = try Supervisor(program, arguments, socket: socket).run()
        if status != 0 { throw ExitCode(status) }
    }
}
