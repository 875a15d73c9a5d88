internal import CLinux
public import Descriptors
internal import Glibc
internal import Synchronization

/// A program that runs as a child and dies with the thread that started it.
public final class ChildProcess: Sendable {
    /// How a child ended.
    public enum End: Equatable, Sendable {
        case exited(Int32)
        case killed(signal: Int32)
    }

    /// The process id.
    public let identifier: Int32
    private let end = Mutex<End?>(nil)

    /// - Parameters:
    ///   - path: the program; its name is its zeroth argument.
    ///   - processor: the only processor it may run on.
    ///   - output: a descriptor that becomes its standard output.
    public init(
        _ path: String, _ arguments: [String], processor: Int32? = nil, output: Int32? = nil
    ) throws(Fault) {
        // The callee only reads path and list, before it returns.
        let started = unsafe Self.withArguments([path] + arguments) { list in
            unsafe linux_spawn(path, list, processor ?? -1, output ?? -1)
        }
        guard started > 0 else { throw Fault("start \(path)", errno: -started) }
        identifier = started
    }

    deinit {
        kill()
        _ = wait()
    }

    /// Ends it at once, wherever it is; nothing to do if it has ended.
    public func kill() {
        signal(SIGKILL)
    }

    /// Sends a signal, if it has not been waited for.
    public func signal(_ number: Int32) {
        end.withLock { if $0 == nil { _ = Glibc.kill(identifier, number) } }
    }

    /// Waits for the end.
    public func wait() -> End {
        linux_await_end(identifier)
        return ended ?? .exited(127)
    }

    /// How it ended, or nil while it runs.
    public var ended: End? {
        end.withLock { end in
            guard end == nil else { return end }
            let status = linux_wait(identifier)
            guard status >= 0 else { return nil }
            end = status < 256 ? .exited(status) : .killed(signal: status - 256)
            return end
        }
    }

    /// Processor time used so far, in nanoseconds; nil once it was waited for.
    public var processorNanoseconds: Int? {
        let used = linux_process_nanoseconds(identifier)
        return used < 0 ? nil : used
    }

    private static func withArguments<Result>(
        _ arguments: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        // strdup'ed for the call and freed behind it; the list ends with a null pointer, as execv wants it.
        var list: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) } + [nil]
        defer { unsafe list.forEach { unsafe free($0) } }
        return unsafe body(&list)
    }
}
