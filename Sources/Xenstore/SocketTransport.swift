internal import CLinux
public import Descriptors
internal import Glibc

/// The unix socket of a xenstored.
public final class SocketTransport: XenstoreTransport {
    private let socket: OwnedDescriptor
    private let path: String

    /// Connects. A full backlog is waited for up to five seconds: C xenstored listens with a backlog of one.
    public init(path: String) throws(Fault) {
        // The string is NUL-terminated for the time of the call.
        socket = try OwnedDescriptor(unsafe linux_unix_connect(path, 5), "connect \(path)")
        self.path = path
    }

    public var descriptor: Int32 { socket.number }
    public var maximumPayload: Int { XenstoreFrame.maximumPayload }

    public func read(atMost count: Int) throws(Fault) -> [UInt8]? {
        let descriptor = socket.number
        var result = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            // The kernel writes at most `count` bytes into the buffer and says how many.
            result = unsafe linux_socket_receive(descriptor, buffer.baseAddress, buffer.count)
            initialized = max(result, 0)
        }
        if result == -Int(EAGAIN) { return nil }
        guard result >= 0 else { throw Fault("read \(path)", errno: Int32(truncatingIfNeeded: -result)) }
        return bytes
    }

    public func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int {
        let descriptor = socket.number
        // The kernel reads the slice during the call only.
        let result = unsafe bytes.withUnsafeBytes { buffer in
            unsafe linux_socket_send(descriptor, buffer.baseAddress, buffer.count)
        }
        if result == -Int(EAGAIN) { return 0 }
        guard result >= 0 else { throw Fault("write \(path)", errno: Int32(truncatingIfNeeded: -result)) }
        return result
    }

    public func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool {
        let events = Int16(POLLIN) | (writing ? Int16(POLLOUT) : 0)
        let result = linux_poll_one(socket.number, events, milliseconds)
        if result == -EINTR { return true }
        guard result >= 0 else { throw Fault("poll \(path)", errno: -result) }
        return result != 0
    }
}
