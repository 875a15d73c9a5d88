import ArgumentParser
import Glibc
import Logging
import Telemetry

@main
struct Main: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-blkbackd",
        abstract: "Serves a domain's virtual disks from LVM volumes, other block devices and raw files.",
        discussion: """
            One process serves all disks of one domain. It ends when the last of them is gone. SIGTERM makes it finish \
            what is in flight and leave the disks connected, for the next process to take over.

            Exit status: 0 after the last disk or a signal, 1 for a failure, 2 for a wrong command line, 75 if a disk \
            appeared just when the process was about to end, so that another one must be started.
            """)

    @OptionGroup var options: Options

    func run() throws {
        let environment = Environment()
        LoggingSystem.bootstrap { label in
            StandardErrorLogHandler(label: label, level: options.logLevel, hasPriority: environment.isUnderJournal)
        }
        // EX_TEMPFAIL of sysexits.h.
        if case .again = try Daemon(options, environment).run() { throw ExitCode(75) }
    }

    /// One line on standard error for everything that goes wrong: exit 2 for the command line, 1 for the rest.
    static func main() {
        do {
            let command = try parse()
            do {
                try command.run()
            } catch let code as ExitCode {
                Glibc.exit(code.rawValue)
            } catch {
                end("\(error)", code: 1)
            }
        } catch {
            // Help is an error to the parser, but not to its reader.
            if exitCode(for: error) == .success { exit(withError: error) }
            end(message(for: error), code: 2)
        }
    }

    private static func end(_ text: String, code: Int32) -> Never {
        let first = text.split(separator: "\n", maxSplits: 1).first ?? ""
        var line = "xen-blkbackd: \(first)\n"
        // The bytes live for the call.
        line.withUTF8 { bytes in _ = unsafe write(STDERR_FILENO, bytes.baseAddress, bytes.count) }
        Glibc.exit(code)
    }
}

/// What the executable, and nothing below it, reads from its environment.
struct Environment {
    /// sd_notify(3).
    let notifySocket = Self.value("NOTIFY_SOCKET")
    /// systemd.exec(5): standard error goes to the journal.
    let isUnderJournal = Self.value("JOURNAL_STREAM") != nil
    /// Where xenstore is, as libxenstore takes it: a socket or a device; the directory of xenstored's socket.
    let xenstorePath = Self.value("XENSTORED_PATH")
    let xenstoreDirectory = Self.value("XENSTORED_RUNDIR")

    private static func value(_ name: String) -> String? {
        // Nobody changes the environment; the text is copied at once.
        unsafe getenv(name).map { unsafe String(cString: $0) }
    }
}
