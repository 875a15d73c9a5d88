internal import CLinux
internal import Glibc

/// A file of fixed size, mapped shared: what is stored there outlives the process, without a call.
///
/// Its blocks exist before it is used: a full file system is a fault when the file is made, and not a signal when memory is
/// touched. Whoever shortens the file behind our back is answered with SIGBUS all the same; the directory is ours alone.
@safe public final class MappedFile: Sendable {
    /// The first byte; page-aligned, valid as long as this object lives.
    nonisolated(unsafe) public let base: UnsafeMutableRawPointer
    /// Bytes, whole pages.
    public let count: Int

    /// Makes a file of zeroes in the place of whatever has that name.
    public convenience init(creating path: String, bytes: Int) throws(Fault) {
        let descriptor = try OwnedDescriptor(
            unsafe linux_create_reserved(path, UInt64(bytes)), "reserve \(bytes) bytes for \(path)")
        try self.init(descriptor, path, bytes)
    }

    /// Maps a file that exists; nil if there is none. One of another size is refused with EINVAL.
    ///
    /// - Parameter bytes: its size; nil: whatever it has.
    public convenience init?(opening path: String, bytes: Int?) throws(Fault) {
        let result = unsafe linux_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0)
        guard result != -ENOENT else { return nil }
        let descriptor = try OwnedDescriptor(result, "open \(path)")
        var status = stat()
        // `status` lives for the call.
        guard unsafe fstat(descriptor.number, &status) == 0 else { throw Fault("examine \(path)", errno: errno) }
        let size = Int(status.st_size)
        guard status.st_mode & S_IFMT == S_IFREG, size > 0, size == bytes ?? size else {
            throw Fault("\(path) is no file of \(bytes ?? 1) bytes", errno: EINVAL)
        }
        try self.init(descriptor, path, size)
    }

    private init(_ descriptor: borrowing OwnedDescriptor, _ path: String, _ bytes: Int) throws(Fault) {
        // A new mapping somewhere, of a file that is open.
        let memory = unsafe mmap(
            nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | linux_map_populate, descriptor.number, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            throw Fault("map \(path)", errno: errno)
        }
        unsafe base = memory
        count = bytes
    }

    deinit { unsafe munmap(base, count) }
}
