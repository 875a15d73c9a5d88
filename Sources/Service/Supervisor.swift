internal import CLinux
public import Descriptors
internal import Glibc

/// Starts a daemon again whenever it is killed, as its unit says under systemd, and keeps open what it leaves for the next
/// process.
public struct Supervisor: ~Copyable {
    private let program: String
    private let arguments: [String]
    private let store: DescriptorStore

    /// Microseconds between a death and the next process: RestartSec= of the units.
    private static let pause: UInt32 = 100_000

    /// - Parameter socket: a path that is free, in a directory that is nobody else's.
    public init(_ program: String, _ arguments: [String], socket: String) throws(Fault) {
        self.program = program
        self.arguments = arguments
        store = try DescriptorStore(at: socket)
    }

    /// - Returns: the exit status with which the daemon has ended for good.
    public func run() throws(Fault) -> Int32 {
        while true {
            switch try runOnce() {
            // EX_TEMPFAIL: a device came when it was about to end.
            case .exited(75): continue
            case .exited(let status): return status
            case .killed: usleep(Self.pause)
            }
        }
    }

    private func runOnce() throws(Fault) -> ChildProcess.End {
        let child = try ChildProcess(service: program, arguments, store: store)
        let end = try OwnedDescriptor(linux_process_descriptor(child.identifier), "watch process \(child.identifier)")
        try store.serve(until: end.number)
        return child.wait()
    }
}
