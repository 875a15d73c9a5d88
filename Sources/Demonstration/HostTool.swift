internal import CLinux
public import Descriptors
internal import Glibc
internal import Loopback

/// Why a program of the host did not do its work.
public enum HostToolError: Error, Equatable, Sendable, CustomStringConvertible {
    case missing(String)
    /// It ended with a status, and this is the last line that it printed.
    case failed(String, status: Int32, line: String)
    case killed(String, signal: Int32)
    case late(String, milliseconds: Int)
    /// Its caller did not want to wait any longer.
    case interrupted(String)
    case host(Fault)

    public var description: String {
        switch self {
        case .missing(let name): "\(name) is not installed"
        case .failed(let name, let status, ""): "\(name) ended with status \(status)"
        case .failed(let name, let status, let line): "\(name) ended with status \(status): \(line)"
        case .killed(let name, let signal): "\(name) was killed by signal \(signal)"
        case .late(let name, let milliseconds): "\(name) did not end within \(milliseconds) ms"
        case .interrupted(let name): "\(name) was interrupted"
        case .host(let fault): fault.description
        }
    }
}

/// A program of the host, found in PATH or in the administrators' directories, which are in few users' PATH.
public struct HostTool: Sendable {
    /// What it is called.
    public let name: String
    private let arguments: [String]
    /// Takes what it prints, errors as well.
    private let log: String

    /// - Parameter log: a file that can be written; its contents are replaced.
    public init(_ name: String, _ arguments: [String], log: String) {
        self.name = name
        self.arguments = arguments
        self.log = log
    }

    /// Runs it to its end.
    ///
    /// - Parameters:
    ///   - milliseconds: then it is killed.
    ///   - isOver: asked a few times a second; true ends it early.
    public func run(milliseconds: Int, isOver: () -> Bool) throws(HostToolError) {
        switch try wait(for: start(), milliseconds: milliseconds, isOver: isOver) {
        case .exited(0): return
        case .exited(127): throw .missing(name)
        case .exited(let status): throw .failed(name, status: status, line: lastLine)
        case .killed(let signal): throw .killed(name, signal: signal)
        }
    }

    /// The shell looks for the program, joins its two outputs and becomes it; 127 is its status without one (sh(1)).
    private func start() throws(HostToolError) -> ChildProcess {
        let script = "PATH=$PATH:/usr/sbin:/sbin; exec \"$@\" 2>&1"
        do {
            // The string lives during the call.
            let output = try OwnedDescriptor(
                unsafe linux_open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600), "write \(log)")
            return try ChildProcess("/bin/sh", ["-c", script, "sh", name] + arguments, output: output.number)
        } catch {
            throw .host(error)
        }
    }

    private func wait(
        for child: ChildProcess, milliseconds: Int, isOver: () -> Bool
    ) throws(HostToolError) -> ChildProcess.End {
        let end = linux_monotonic_nanoseconds() &+ UInt64(max(milliseconds, 0)) &* 1_000_000
        while linux_monotonic_nanoseconds() < end {
            if let end = child.ended { return end }
            // The child is killed when its object goes.
            if isOver() { throw .interrupted(name) }
            usleep(5000)
        }
        throw .late(name, milliseconds: milliseconds)
    }

    /// Where programs say what stopped them.
    private var lastLine: String {
        guard let bytes = try? HostFile.read(log, limit: 64 << 10) else { return "" }
        return String(decoding: bytes.split(separator: UInt8(ascii: "\n")).last ?? [], as: UTF8.self)
    }
}
