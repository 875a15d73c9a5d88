internal import CLinux
public import Descriptors
internal import Glibc

/// Networks of one's own, for a thread and all that it starts.
public enum NetworkNamespace {
    /// A new one with nothing in it, not even what the kernel says unasked over IPv6.
    public static func enterNew() throws(Fault) {
        try check(linux_network_new(), "make a network namespace")
        // Where there is no IPv6 nobody says anything.
        _ = unsafe linux_write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
    }

    /// One that is there: a path like /run/netns/NAME.
    public static func enter(_ path: String) throws(Fault) {
        // Only reads the path.
        try check(unsafe linux_network_enter(path), "enter network namespace \(path)")
    }

    static func check(_ result: Int32, _ operation: String) throws(Fault) {
        guard result >= 0 else { throw Fault(operation, errno: -result) }
    }
}

/// An interface of the thread's network, as another station on it sees it.
final class PacketSocket: Sendable {
    private let socket: OwnedDescriptor
    /// Bytes of the virtio header in front of every frame.
    static let header = 10

    /// - Parameter receives: yields what comes in through the interface; else it sends.
    init(_ interface: String, receives: Bool) throws(Fault) {
        // Only reads the name.
        let index = unsafe linux_interface_index(interface)
        try NetworkNamespace.check(index, "find interface \(interface)")
        socket = try OwnedDescriptor(
            linux_packet_socket(index, receives ? 1 : 0), "open a packet socket on \(interface)")
    }

    /// The next frame with its header, as far as `capacity` reaches; nil if there is none.
    func receive(_ memory: UnsafeMutableRawPointer, capacity: Int) throws(Fault) -> Int? {
        // The caller answers for `capacity` bytes.
        let bytes = unsafe linux_frame_read(socket.number, memory, capacity)
        guard bytes != -Int(EAGAIN) else { return nil }
        guard bytes >= 0 else { throw Fault("read from a packet socket", errno: Int32(truncatingIfNeeded: -bytes)) }
        return bytes
    }

    /// Sends frames of `length` bytes, header included, that lie `stride` bytes apart.
    func send(_ frames: UnsafeRawPointer, stride: Int, length: Int, count: Int) throws(Fault) {
        var done = 0
        while done < count {
            // The caller answers for `count` frames.
            let sent = unsafe linux_packets_send(
                socket.number, frames + done * stride, stride, length, UInt32(count - done))
            guard sent > 0 else { throw Fault("send to a packet socket", errno: Int32(truncatingIfNeeded: -sent)) }
            done += sent
        }
    }
}
