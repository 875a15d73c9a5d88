import ArgumentParser
import Glibc
import Service

@main
struct Main: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-backctl", abstract: "Manages the processes that serve guests' disks and networks.",
        subcommands: [UpgradeCommand.self, SuperviseCommand.self])
}

/// `xen-backctl upgrade`
struct UpgradeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade", abstract: "Replaces running daemons by the programs that are installed now.",
        discussion: """
            Guests keep their disks and networks and see a pause. Each new program is first asked whether it can serve on \
            what the old one has in flight; if it cannot, the old one goes on. Under systemd the daemon's unit is restarted, \
            else the process gets SIGTERM and --start is run.

            Exit status: 0 if all that was asked for was replaced, 1 if something was not, 2 for a wrong command line.
            """)

    @Option(help: ArgumentHelp("Only this domain's; may be repeated (default: all).", valueName: "N"))
    var domid: [UInt16] = []

    @Option(help: ArgumentHelp("Only this daemon's: xen-blkbackd or xen-netbackd.", valueName: "NAME"))
    var daemon: String?

    @Option(help: ArgumentHelp("What starts a daemon where systemd does not.", valueName: "PROGRAM"))
    var start = "/usr/libexec/xen-blkbackd/start"

    @Option(
        help: ArgumentHelp("Where daemons keep their state (default: each in its own below /run).", valueName: "DIR"))
    var stateDir: String?

    func validate() throws {
        guard let daemon, !RunningDaemon.kinds.contains(where: { $0.name == daemon }) else { return }
        throw ValidationError("--daemon \(daemon): must be xen-blkbackd or xen-netbackd")
    }

    func run() throws {
        let found = daemons
        for number in domid where !found.contains(where: { $0.domain == number }) {
            throw Failure(description: "--domid \(number): no daemon serves this domain")
        }
        var hasFailed = false
        for old in found { hasFailed = !replaced(old) || hasFailed }
        if hasFailed { throw ExitCode(1) }
    }

    private var daemons: [RunningDaemon] {
        RunningDaemon.kinds.filter { daemon == nil || daemon == $0.name }.flatMap { kind in
            RunningDaemon.all(kind.name, prefix: kind.prefix, in: stateDir ?? "/run/\(kind.name)")
        }.filter { domid.isEmpty || domid.contains($0.domain) }
    }

    private func replaced(_ old: RunningDaemon) -> Bool {
        let subject = "\(old.name), domain \(old.domain)"
        do throws(Upgrade.Failure) {
            let new = try Upgrade(old, starter: start).run()
            print("\(subject): process \(old.process) -> \(new.process), \(new.connectedDevices) devices served on")
            return true
        } catch {
            let line = "xen-backctl: \(subject): \(error)\n"
            // The bytes live for the call.
            _ = unsafe line.withCString { unsafe write(STDERR_FILENO, $0, line.utf8.count) }
            return false
        }
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }
}
