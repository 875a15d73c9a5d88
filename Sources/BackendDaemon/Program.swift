public import ArgumentParser
internal import Glibc
internal import Logging
internal import Service
internal import Telemetry

/// A daemon's command.
public protocol DaemonCommand: ParsableCommand {
    var common: DaemonOptions { get }
    /// What it serves.
    func kind() throws -> BackendKind
}

extension DaemonCommand {
    public func serve() throws {
        let environment = Environment()
        LoggingSystem.bootstrap { [level = common.logLevel] label in
            StandardErrorLogHandler(label: label, level: level, hasPriority: environment.isUnderJournal)
        }
        let kind = try kind()
        if common.checkJournals {
            return try JournalCheck(in: common.stateDirectory(of: kind.name), name: "\(kind.prefix)-\(common.domid)")
                .run()
        }
        FaultWatch.start()
        if case .again = try start(kind, environment).run() { throw ExitCode(ExitStatus.again) }
    }

    /// The service manager starts a daemon that has ended again at once, for a guest waits. One that cannot even start would
    /// keep a processor busy with it, so that takes its time.
    private func start(_ kind: BackendKind, _ environment: Environment) throws -> Daemon {
        do {
            return try Daemon(kind, common, environment)
        } catch {
            // For a lock it has waited.
            if environment.notifySocket != nil, ExitStatus.of(error) != ExitStatus.taken { sleep(2) }
            throw error
        }
    }

    /// One line on standard error for everything that goes wrong (`ExitStatus`).
    public static func runToEnd() -> Never {
        do {
            var command = try parse()
            do {
                try command.run()
                Glibc.exit(0)
            } catch let code as ExitCode {
                Glibc.exit(code.rawValue)
            } catch {
                end("\(error)", code: ExitStatus.of(error))
            }
        } catch {
            // Help is an error to the parser, but not to its reader.
            if exitCode(for: error) == .success { exit(withError: error) }
            end(message(for: error), code: ExitStatus.usage)
        }
    }

    private static func end(_ text: String, code: Int32) -> Never {
        let first = text.split(separator: "\n", maxSplits: 1).first ?? ""
        var line = "\(configuration.commandName ?? "daemon"): \(first)\n"
        // The bytes live for the call.
        line.withUTF8 { bytes in _ = unsafe write(STDERR_FILENO, bytes.baseAddress, bytes.count) }
        Glibc.exit(code)
    }
}
