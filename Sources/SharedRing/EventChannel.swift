public import Descriptors
internal import Glibc
public import XenWire

/// One end of an interdomain event channel, bound; unbound when the object goes.
///
/// Edge semantics, as /dev/xen/evtchn has them: after the descriptor polled readable, `drain` until it returns false,
/// serve the ring, and only then `unmask`: the next event is delivered after that, and one that came meanwhile is kept.
/// Used from its queue's thread only.
public protocol EventChannel: AnyObject {
    /// Polls readable when an event is pending. Whoever reads it says so with `noteTaken`.
    var descriptor: Int32 { get }
    /// Sends an event to the other end.
    func notify()
    /// Takes what is pending; true if there was an event.
    func drain() -> Bool
    /// Allows the next event; a no-op where nothing was drained.
    func unmask()
    /// Somebody else has read the descriptor and got something: as a `drain` that returned true.
    func noteTaken()
    /// As `unmask`, for somebody else who writes to the descriptor: the word to write, if there is anything to allow.
    func takeUnmasking() -> UInt32?
}

extension EventChannel {
    public func noteTaken() {}
    public func takeUnmasking() -> UInt32? {
        unmask()
        return nil
    }
}

/// What a queue needs of the hypervisor. Live, loopback between processes, and the model in one process implement it.
public protocol RingPlatform: AnyObject, Sendable {
    /// A grant table handle for one queue.
    func openGrantTable() throws(Fault) -> any GrantTable
    /// Binds a local port to `port` of `domain` (EVTCHNOP_bind_interdomain); the new port starts pending.
    func bindEventChannel(to port: EventPort, of domain: DomainID) throws(Fault) -> any EventChannel
}

extension RingPlatform {
    /// The same for a channel that an earlier process may have been bound to. It is given up a while after that process's end,
    /// when a kernel's worker has let go what the process's io_uring was waiting for: 0.8 s were seen on a slow host.
    ///
    /// - Parameter again: it was bound before; waits for 3 s at most.
    public func bindEventChannel(
        to port: EventPort, of domain: DomainID, again: Bool
    ) throws(Fault) -> any EventChannel {
        for _ in 0..<(again ? 3000 : 0) {
            do throws(Fault) {
                return try bindEventChannel(to: port, of: domain)
            } catch {
                // Bound still, or never offered: the call does not say which.
                guard error.code == EINVAL else { throw error }
                usleep(1000)
            }
        }
        return try bindEventChannel(to: port, of: domain)
    }
}

/// Monotonic time, read once per batch.
public protocol Clock: AnyObject, Sendable {
    /// Nanoseconds since an arbitrary start; never goes back.
    func now() -> UInt64
}
