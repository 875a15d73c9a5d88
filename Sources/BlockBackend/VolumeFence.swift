internal import CLinux
public import Descriptors
internal import Glibc
internal import Synchronization
public import XenWire

/// Between what a killed process has started on a volume and what this one starts (R0).
///
/// The end of a process does not end its io_uring: writes have been seen to land seconds after waitpid(2) had returned. So
/// every process locks a byte of the open file that its I/O goes through (F_OFD_SETLK), far behind all data. The lock
/// is the open file's, which each operation under way keeps open, and so the next process gets it only after the last.
public final class VolumeFence: Sendable {
    private let descriptor: Int32
    private let offset: UInt64
    private let hasPassed = Atomic<Bool>(false)
    /// Nanoseconds since boot: the first try, and, once it has passed, the one that did.
    private let start = Atomic<UInt64>(0)
    private let end = Atomic<UInt64>(0)

    /// - Parameters:
    ///   - descriptor: what the I/O goes through, open for writing; it outlives the fence.
    ///   - host: a number of this host's, so that two hosts with one volume do not wait for each other.
    public init(_ descriptor: Int32, domain: DomainID, device: UInt32, host: UInt16) {
        self.descriptor = descriptor
        offset = 1 << 62 | UInt64(host) << 46 | UInt64(domain.rawValue) << 30 | UInt64(device & 0x3FFF_FFFF)
    }

    /// True once no operation of an earlier process is under way; then this process has the lock.
    ///
    /// - Throws: where the volume's file system has no such locks.
    public func pass() throws(Fault) -> Bool {
        if hasPassed.load(ordering: .acquiring) { return true }
        let now = linux_monotonic_nanoseconds()
        _ = start.compareExchange(expected: 0, desired: now, ordering: .relaxed)
        let result = linux_lock_byte(descriptor, offset)
        if result == -EAGAIN { return false }
        guard result == 0 else { throw Fault("lock a byte of the volume", errno: -result) }
        _ = end.compareExchange(expected: 0, desired: now, ordering: .relaxed)
        hasPassed.store(true, ordering: .releasing)
        return true
    }

    /// Returns when no operation of an earlier process is under way.
    func wait() throws(Fault) {
        while try !pass() { usleep(1000) }
    }

    /// Nanoseconds for which an earlier process's operations were waited for; nil while they still are.
    public var waited: UInt64? {
        guard hasPassed.load(ordering: .acquiring) else { return nil }
        return end.load(ordering: .relaxed) &- start.load(ordering: .relaxed)
    }
}
