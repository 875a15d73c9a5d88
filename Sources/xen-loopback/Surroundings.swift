import Glibc

/// What the executable, and nothing below it, takes from its surroundings.
enum Surroundings {
    /// The directory that this program is in: its daemons are there, too.
    static var ownDirectory: String {
        var bytes = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            // Writes no more than the buffer's size.
            return unsafe readlink("/proc/self/exe", base.assumingMemoryBound(to: CChar.self), buffer.count)
        }
        let path = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
        return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    }

    static var temporaryDirectory: String {
        // Nobody changes the environment; the text is copied at once.
        unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    }
}

/// The time of day, and one that never goes back.
enum Wall {
    static var nanoseconds: UInt64 { read(CLOCK_REALTIME) }
    static var steadyNanoseconds: UInt64 { read(CLOCK_MONOTONIC) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var now = timespec()
        // Fills in its argument.
        unsafe _ = clock_gettime(clock, &now)
        return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
    }
}

/// Whether a termination signal waits to be taken.
struct SignalWatch {
    private let descriptor: Int32
    init(_ descriptor: Int32) { self.descriptor = descriptor }

    var hasCome: Bool {
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        // One element, as the count says.
        return unsafe poll(&polled, 1, 0) > 0
    }
}

/// A text file, read whole.
enum TextFile {
    static func read(_ path: String) throws -> String {
        // Only reads the path.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw UsageError(description: "\(path): cannot be read (errno \(errno))") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            // Writes no more than the buffer's size.
            let count = unsafe Glibc.read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            bytes += buffer.prefix(count)
            guard bytes.count <= 1 << 20 else { throw UsageError(description: "\(path): is larger than 1 MiB") }
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw UsageError(description: "\(path): must be UTF-8 text")
        }
        return text
    }
}
