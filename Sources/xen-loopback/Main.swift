import ArgumentParser
import Glibc

@main
struct Main: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-loopback",
        abstract: "A world without Xen on one machine: starts the real daemons and drives them.",
        subcommands: [BlockCommand.self, NetCommand.self, DemoCommand.self])

    /// One line on standard error for everything that goes wrong: exit 2 for the command line, 1 for the rest.
    static func main() {
        do {
            var command = try parseAsRoot()
            do {
                try command.run()
            } catch let usage as UsageError {
                end("\(usage)", code: 2)
            } catch let code as ExitCode {
                Glibc.exit(code.rawValue)
            } catch  where exitCode(for: error) == .success {
                exit(withError: error)
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
        Output.error("xen-loopback: \(first)\n")
        Glibc.exit(code)
    }
}

/// Something on the command line, or in a file that it names, that makes no sense.
struct UsageError: Error, CustomStringConvertible {
    let description: String
}
