import ArgumentParser
import Glibc
import Loopback

/// Which daemon, and on which processors.
struct PlaceOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The daemon (default: the one beside this program).", valueName: "PATH"))
    var backend: String?
    @Option(help: ArgumentHelp("Processors of the frontend and of the daemon.", valueName: "FE,BE"))
    var cpus: String?

    func setting(_ daemon: String) throws -> RunSetting {
        RunSetting(
            daemon: try path(daemon), temporary: Surroundings.temporaryDirectory, processors: try processors())
    }

    private func path(_ daemon: String) throws -> String {
        let path = backend ?? Surroundings.ownDirectory + "/" + daemon
        // Only reads the path.
        guard unsafe access(path, X_OK) == 0 else {
            throw UsageError(description: "--backend \(path): must be a program that can be executed")
        }
        return path
    }

    private func processors() throws -> (frontend: Int32, backend: Int32)? {
        guard let cpus else { return nil }
        let numbers = cpus.split(separator: ",", omittingEmptySubsequences: false).map { Int32($0) ?? -1 }
        let count = Int32(clamping: sysconf(Int32(_SC_NPROCESSORS_CONF)))
        guard numbers.count == 2, numbers.allSatisfy({ (0..<count).contains($0) }) else {
            throw UsageError(description: "--cpus \(cpus): must be two processors, from 0 to \(count - 1)")
        }
        return (numbers[0], numbers[1])
    }
}
