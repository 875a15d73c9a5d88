internal import CLinux
internal import Descriptors
internal import Glibc

/// Whole files of the host.
enum HostFile {
    /// Makes a file, or replaces what is in it.
    static func write(_ bytes: [UInt8], to path: String) throws(Fault) {
        // The string lives during the call.
        let descriptor = try OwnedDescriptor(
            unsafe linux_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644), "write \(path)")
        var done = 0
        while done < bytes.count {
            // The kernel reads no more than the array's bytes from `done` on.
            let written = unsafe bytes.withUnsafeBytes { buffer in
                unsafe Glibc.write(descriptor.number, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done)
            }
            guard written > 0 else { throw Fault("write \(path)", errno: errno) }
            done += written
        }
    }

    /// The first `limit` bytes of a file.
    static func read(_ path: String, limit: Int) throws(Fault) -> [UInt8] {
        var count = 0
        // The kernel writes at most the buffer's length and says how much.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { buffer, initialized in
            count = unsafe linux_read_file(path, buffer.baseAddress, buffer.count)
            initialized = max(count, 0)
        }
        guard count >= 0 else { throw Fault("read \(path)", errno: Int32(truncatingIfNeeded: -count)) }
        return bytes
    }

    /// Makes a directory for our user alone.
    static func makeDirectory(_ path: String) throws(Fault) {
        // The string lives during the call.
        guard unsafe mkdir(path, 0o700) == 0 else { throw Fault("make \(path)", errno: errno) }
    }
}
