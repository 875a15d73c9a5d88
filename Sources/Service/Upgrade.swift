internal import Descriptors
internal import Glibc

/// Puts the program that lies in the file system now in the place of one that serves a domain. Guests see a pause.
public struct Upgrade: Sendable {
    private let daemon: RunningDaemon
    private let starter: String

    /// - Parameter starter: what starts a daemon without systemd: `start NAME DOMID`.
    public init(_ daemon: RunningDaemon, starter: String) {
        self.daemon = daemon
        self.starter = starter
    }

    /// Why a daemon was not replaced, or was and does not serve.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Nothing is touched if the new program cannot read what the old one has in flight.
    ///
    /// - Returns: the new process.
    public func run() throws(Failure) -> RunningDaemon {
        let devices = daemon.connectedDevices
        try check()
        try restart()
        let new = try awaitSuccessor()
        try awaitDevices(devices, new)
        return new
    }

    private func check() throws(Failure) {
        let status = HostCommand.run([
            daemon.program, "--domid", "\(daemon.domain)", "--state-dir", daemon.stateDirectory, "--check-journals",
        ])
        guard status == 0 else {
            throw Failure(
                description: "\(daemon.program) cannot serve on what process \(daemon.process) serves; left alone")
        }
    }

    private func restart() throws(Failure) {
        let unit = "\(daemon.name)@\(daemon.domain).service"
        if HostCommand.run(["systemctl", "is-active", "--quiet", unit]) == 0 {
            guard HostCommand.run(["systemctl", "restart", unit]) == 0 else {
                throw Failure(description: "systemctl restart \(unit) failed")
            }
            return
        }
        _ = kill(daemon.process, SIGTERM)
        // What was in flight ends first.
        try until("process \(daemon.process) has not ended") { daemon.hasEnded }
        guard HostCommand.run([starter, daemon.name, "\(daemon.domain)"]) == 0 else {
            throw Failure(description: "\(starter) \(daemon.name) \(daemon.domain) failed: nobody serves the domain")
        }
    }

    private func awaitSuccessor() throws(Failure) -> RunningDaemon {
        try until("no new process has started") { daemon.successor != nil }
        guard let new = daemon.successor else { throw Failure(description: "the new process has ended") }
        return new
    }

    private func awaitDevices(_ devices: Int, _ new: RunningDaemon) throws(Failure) {
        try until("process \(new.process) serves fewer than \(devices) devices") { new.connectedDevices >= devices }
    }

    private func until(_ complaint: String, _ condition: () -> Bool) throws(Failure) {
        for _ in 0..<3000 {
            if condition() { return }
            usleep(20_000)
        }
        throw Failure(description: "\(complaint) after a minute")
    }
}

/// Programs of the host.
enum HostCommand {
    /// Runs one and waits for it; its exit status, or 127 if it cannot be run.
    static func run(_ words: [String]) -> Int32 {
        // strdup'ed for the call and freed behind it; the list ends with a null pointer, as posix_spawnp wants it.
        var list = unsafe words.map { unsafe strdup($0) } + [nil]
        defer { unsafe list.forEach { unsafe free($0) } }
        var child = pid_t()
        guard let program = words.first, unsafe posix_spawnp(&child, program, nil, nil, &list, environ) == 0 else {
            return 127
        }
        var status: Int32 = 0
        while unsafe waitpid(child, &status, 0) < 0, errno == EINTR {}
        return status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F
    }
}
