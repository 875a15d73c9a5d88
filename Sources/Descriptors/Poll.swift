internal import CLinux
internal import Glibc

/// poll(2) for reading.
public enum Poll {
    /// Waits until one of the descriptors is readable or broken, or the time is over. Negative descriptors are ignored.
    ///
    /// - Returns: for each descriptor whether it needs attention.
    public static func readable(_ descriptors: [Int32], milliseconds: Int32) throws(Fault) -> [Bool] {
        var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        // The array lives for the call and has `count` entries.
        let count = unsafe poll(&entries, nfds_t(entries.count), milliseconds)
        guard count >= 0 || errno == EINTR else { throw Fault("poll", errno: errno) }
        return entries.map { count > 0 && $0.revents != 0 }
    }
}
