internal import CLinux
internal import Glibc
internal import Synchronization

/// Keeps open what a service leaves with whoever starts it, for the next process: a service manager's side of sd_notify(3)
/// (`FDSTORE=1`, `FDSTOREREMOVE=1`, `BARRIER=1`) and of sd_listen_fds(3).
public final class DescriptorStore: Sendable {
    /// What services are told as NOTIFY_SOCKET.
    public let path: String
    private let socket: OwnedDescriptor
    private let kept = Mutex<[Kept]>([])

    /// More are not kept: whoever sends them forgets to take any back.
    private static let capacity = 512
    /// Numbers from here on are ours, those below are for what is passed on.
    private static let lowest: Int32 = 3 + 512

    fileprivate final class Kept: Sendable {
        let name: String
        let descriptor: OwnedDescriptor

        init(_ name: String, _ descriptor: consuming OwnedDescriptor) {
            self.name = name
            self.descriptor = descriptor
        }
    }

    /// - Parameter path: where its socket is made, for as long as the store lives; in a directory that is nobody else's.
    public init(at path: String) throws(Fault) {
        self.path = path
        // The string lives for the calls.
        _ = unsafe unlink(path)
        socket = try OwnedDescriptor(unsafe linux_notice_socket(path), "make the socket \(path)")
        // What is kept needs numbers above the usual limit's half.
        _ = linux_raise_limit(linux_limit_open_files, UInt64(Self.lowest) * 2 + 64)
    }

    // The string lives for the call.
    deinit { _ = unsafe unlink(path) }

    /// Names of what is kept.
    public var names: [String] { kept.withLock { $0.map(\.name) } }

    /// Does what a service asks for until there is something to read from one of `ends`, or one is closed.
    ///
    /// - Returns: which of them it was.
    @discardableResult
    public func serve(until ends: [Int32]) throws(Fault) -> [Bool] {
        while true {
            let ready = try Poll.readable([socket.number] + ends, milliseconds: -1)
            takeAll()
            if ready.dropFirst().contains(true) { return Array(ready.dropFirst()) }
        }
    }

    private func takeAll() {
        var text = [UInt8](repeating: 0, count: 4096)
        while true {
            var attached: Int32 = -1
            // `text` has as many bytes as are said.
            let got = unsafe linux_take_notice(socket.number, &text, text.count, Self.lowest, &attached)
            guard got >= 0 else { return }
            let lines = String(decoding: text.prefix(got), as: UTF8.self).split(separator: "\n")
            if attached >= 0 {
                take(lines, OwnedDescriptor(owning: attached))
            } else if lines.contains("FDSTOREREMOVE=1") {
                let name = Self.name(lines)
                kept.withLock { $0.removeAll { $0.name == name } }
            }
        }
    }

    /// What is not to be kept is closed; that is all that `BARRIER=1` wants.
    private func take(_ lines: [Substring], _ descriptor: consuming OwnedDescriptor) {
        guard lines.contains("FDSTORE=1") else { return }
        let new = Kept(Self.name(lines), descriptor)
        kept.withLock { if $0.count < Self.capacity { $0.append(new) } }
    }

    /// Colons separate names from each other (sd_notify(3)).
    private static func name(_ lines: [Substring]) -> String {
        let name = lines.first { $0.hasPrefix("FDNAME=") }.map { $0.dropFirst(7) } ?? ""
        return name.isEmpty || name.contains(":") ? "stored" : String(name)
    }

    // MARK: the next process

    /// What a process is started with.
    struct Passing {
        fileprivate var kept: [Kept] = []
        var environment: [String] = []
        /// Open as long as this value lives.
        var numbers: [Int32] { kept.map { $0.descriptor.number } }
        /// Where in the first of it the process id belongs.
        let processOffset = "LISTEN_PID=".utf8.count
    }

    var passing: Passing {
        takeAll()
        let kept = kept.withLock { $0 }
        let own = [
            "LISTEN_PID=0000000000", "LISTEN_FDS=\(kept.count)",
            "LISTEN_FDNAMES=\(kept.map(\.name).joined(separator: ":"))", "NOTIFY_SOCKET=\(path)",
        ]
        return Passing(kept: kept, environment: own + Self.inherited)
    }

    private static var inherited: [String] {
        var (all, next) = unsafe ([String](), environ)
        // A list that ends with a null pointer; nobody changes it.
        while let entry = unsafe next.pointee {
            unsafe all.append(String(cString: entry))
            unsafe next += 1
        }
        return all.filter { !$0.hasPrefix("LISTEN_") && !$0.hasPrefix("NOTIFY_SOCKET=") }
    }
}

/// What an earlier process has left with whoever starts us (sd_listen_fds(3)).
public final class LeftDescriptors: Sendable {
    private let left: Mutex<[String: Left]>

    private final class Left: Sendable {
        let descriptor: OwnedDescriptor
        init(_ number: Int32) { descriptor = OwnedDescriptor(owning: number) }
    }

    /// Takes over what was passed. What is not open, or has no name, is as if it were not there.
    ///
    /// - Parameters: what the environment variables of these names say.
    public init(LISTEN_PID process: String?, LISTEN_FDS count: String?, LISTEN_FDNAMES names: String?) {
        guard process.flatMap({ Int32($0) }) == getpid(), let count = count.flatMap({ UInt16($0) }) else {
            left = Mutex([:])
            return
        }
        let names = (names ?? "").split(separator: ":", omittingEmptySubsequences: false)
        var found: [String: Left] = [:]
        for (name, number) in zip(names, 3..<3 + Int32(count)) where fcntl(number, F_SETFD, FD_CLOEXEC) == 0 {
            found[String(name)] = Left(number)
        }
        left = Mutex(found)
    }

    /// Names of what nobody has taken.
    public var names: [String] { left.withLock { Array($0.keys) } }

    /// A descriptor of its own for what was left under this name, once.
    public func take(_ name: String) -> OwnedDescriptor? {
        guard let taken = left.withLock({ $0.removeValue(forKey: name) }) else { return nil }
        let number = fcntl(taken.descriptor.number, F_DUPFD_CLOEXEC, 3)
        return number < 0 ? nil : OwnedDescriptor(owning: number)
    }
}
