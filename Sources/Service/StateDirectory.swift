internal import CLinux
public import Descriptors
internal import Glibc

/// Why a process may not start to serve.
public enum StateDirectoryError: Error, Equatable, CustomStringConvertible {
    /// Another process serves the same; its id, or 0 if unknown.
    case taken(path: String, holder: Int32)
    case fault(Fault)

    public var description: String {
        switch self {
        case .taken(let path, 0): "\(path) is locked: another process serves this already"
        case .taken(let path, let holder): "\(path) is locked: process \(holder) serves this already"
        case .fault(let fault): fault.description
        }
    }
}

/// The directory in which a daemon keeps what must outlive it, and the lock that keeps a second one out.
///
/// The lock is on an open file, so it ends with the process, however that ends.
public final class StateDirectory: Sendable {
    public let path: String
    /// Prefix of all our files: domain and class.
    private let name: String
    private let lock: FileLock

    /// Makes the directory (mode 0700) and takes the lock of `name`.
    ///
    /// - Parameter patience: milliseconds to wait for another process that has it.
    public init(_ path: String, name: String, patience: UInt32 = 0) throws(StateDirectoryError) {
        self.path = path
        self.name = name
        // The string lives for the call.
        let made = unsafe linux_make_private_directory(path)
        guard made == 0 else { throw .fault(Fault("state directory \(path)", errno: -made)) }
        lock = try FileLock("\(path)/\(name).lock", patience: patience)
    }

    /// Lets another process in, before this one ends. Nothing of ours may be written after it.
    public func unlock() { lock.unlock() }

    private func file(_ suffix: String) -> String { "\(path)/\(name).\(suffix)" }

    /// Where one of our files lies.
    public func path(of suffix: String) -> String { file(suffix) }

    /// Replaces one of our files as a whole.
    public func replace(_ suffix: String, with text: String) throws(Fault) {
        let target = file(suffix)
        var text = text
        // The bytes live for the call.
        let result = text.withUTF8 { bytes in
            unsafe linux_replace_file(
                target, target + ".new", bytes.baseAddress ?? UnsafePointer(bitPattern: 1), bytes.count)
        }
        guard result == 0 else { throw Fault("write \(target)", errno: -result) }
    }

    /// One of our files, at most 4,095 bytes of it; nil if there is none.
    public func read(_ suffix: String) throws(Fault) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4095)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file(file(suffix), &buffer, buffer.count)
        guard got != -Int(ENOENT) else { return nil }
        guard got >= 0 else { throw Fault("read \(file(suffix))", errno: Int32(-got)) }
        return String(decoding: buffer.prefix(got), as: UTF8.self)
    }

    /// Removes one of our files; nothing happens if there is none.
    public func remove(_ suffix: String) throws(Fault) {
        guard unsafe unlink(file(suffix)) != 0, errno != ENOENT else { return }
        throw Fault("remove \(file(suffix))", errno: errno)
    }
}
