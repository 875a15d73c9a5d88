internal import CLinux
internal import Glibc
internal import Synchronization

/// A program that runs as a child.
public final class ChildProcess: Sendable {
    /// How a child ended.
    public enum End: Equatable, Sendable {
        case exited(Int32)
        case killed(signal: Int32)
    }

    /// The process id.
    public let identifier: Int32
    private let livesOn: Bool
    private let end = Mutex<End?>(nil)

    /// Dies with the thread that started it.
    ///
    /// - Parameters:
    ///   - path: the program; its name is its zeroth argument.
    ///   - processor: the only processor it may run on.
    ///   - output: a descriptor that becomes its standard output.
    ///   - store: whom it may leave descriptors with, and what is there it gets.
    public init(
        _ path: String, _ arguments: [String], processor: Int32? = nil, output: Int32? = nil,
        store: DescriptorStore? = nil
    ) throws(Fault) {
        identifier = try Self.start(path, arguments, processor ?? -1, output ?? -1, store, dies: true)
        livesOn = false
    }

    /// Lives on when its parent does not.
    public init(service path: String, _ arguments: [String], store: DescriptorStore) throws(Fault) {
        identifier = try Self.start(path, arguments, -1, -1, store, dies: false)
        livesOn = true
    }

    private static func start(
        _ path: String, _ arguments: [String], _ processor: Int32, _ output: Int32, _ store: DescriptorStore?,
        dies: Bool
    ) throws(Fault) -> Int32 {
        let passed = store?.passing ?? DescriptorStore.Passing()
        // The callee only reads the lists, before it returns, and writes ten bytes of its own copy of one.
        let started = unsafe withStrings([path] + arguments) { arguments in
            unsafe withStrings(passed.environment) { environment in
                unsafe passed.numbers.withUnsafeBufferPointer { numbers in
                    var options = unsafe linux_spawn_options(
                        processor: processor, output: output, dies: dies ? 1 : 0,
                        environment: store == nil ? nil : environment,
                        process: passed.environment.isEmpty ? nil : environment[0]?.advanced(by: passed.processOffset),
                        passed: numbers.baseAddress, passed_count: numbers.count)
                    return unsafe linux_spawn(path, arguments, &options)
                }
            }
        }
        guard started > 0 else { throw Fault("start \(path)", errno: -started) }
        return started
    }

    deinit {
        guard !livesOn else { return }
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

    private static func withStrings<Result>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        // strdup'ed for the call and freed behind it; the list ends with a null pointer, as execv wants it.
        var list: [UnsafeMutablePointer<CChar>?] = unsafe strings.map { unsafe strdup($0) } + [nil]
        defer { unsafe list.forEach { unsafe free($0) } }
        return unsafe body(&list)
    }
}
