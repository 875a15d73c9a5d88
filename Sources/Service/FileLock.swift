internal import CLinux
internal import Descriptors
internal import Glibc

/// An exclusive lock on a file, with the process's id in it. It ends with the value, and with the process, however that ends.
public struct FileLock: ~Copyable, Sendable {
    private let descriptor: OwnedDescriptor

    /// Microseconds between two looks at a lock that somebody holds.
    private static let interval: UInt32 = 20_000

    /// - Parameter patience: milliseconds to wait for whoever holds it, and is perhaps about to end.
    public init(_ path: String, patience: UInt32 = 0) throws(StateDirectoryError) {
        var (result, holder, left) = (Int32(0), Int32(0), patience * 1000 / Self.interval)
        while true {
            // The string lives for the call; the holder is written before it returns.
            result = unsafe linux_lock_file(path, &holder)
            guard result == -EWOULDBLOCK, left > 0 else { break }
            usleep(Self.interval)
            left -= 1
        }
        guard result != -EWOULDBLOCK else { throw .taken(path: path, holder: holder) }
        do {
            descriptor = try OwnedDescriptor(result, "lock \(path)")
        } catch {
            throw .fault(error)
        }
    }

    /// Lets another process in, before this one ends.
    func unlock() {
        // The descriptor is open; giving back a lock that we hold cannot fail.
        _ = linux_unlock_file(descriptor.number)
    }
}
