internal import Descriptors
internal import Glibc
internal import SharedRing
internal import XenWire

/// One port on a descriptor of its own.
///
/// The kernel masks a port when it reports its event; events that come until it is unmasked are kept by Xen as one. So a
/// queue that unmasks late is woken at most once per look at its ring, however often the guest sends.
final class LiveEventChannel: EventChannel {
    private let calls: any EventCalls
    private let port: UInt32
    private var isMasked = false

    init(_ calls: any EventCalls, to port: EventPort, of domain: DomainID) throws(Fault) {
        try Self.restrict(calls, to: domain)
        let local = calls.bind(to: port, of: domain)
        guard local >= 0 else { throw Self.fault(port, domain, -local) }
        self.calls = calls
        self.port = UInt32(local)
    }

    /// Whatever happens in this process, the descriptor reaches no other domain. Domain 0 cannot be restricted to
    /// (evtchn.c), and old kernels have no such call.
    private static func restrict(_ calls: any EventCalls, to domain: DomainID) throws(Fault) {
        guard domain.rawValue != 0 else { return }
        let result = calls.restrict(to: domain)
        guard result == 0 || result == -ENOTTY else {
            throw Fault("restrict event channels to domain \(domain)", errno: -result)
        }
    }

    private static func fault(_ port: EventPort, _ domain: DomainID, _ code: Int32) -> Fault {
        let operation = "bind to event channel \(port) of domain \(domain)"
        switch code {
        case EINVAL: return Fault("\(operation) (not offered to this domain, or bound by another process)", errno: code)
        case ENOSPC: return Fault("\(operation) (this domain has no port left)", errno: code)
        default: return Fault(operation, errno: code)
        }
    }

    var descriptor: Int32 { calls.descriptor }

    /// Nobody hears it once the domain is dead, and the kernel does not say so: xenstore will.
    func notify() { _ = calls.notify(port) }

    /// Reads until the buffer is empty, because the descriptor wakes its waiters only when it was.
    func drain() -> Bool {
        let count = takePorts()
        if count == -EFBIG { return recover() }
        if count > 0 { isMasked = true }
        return count > 0
    }

    /// The number of ports that were read, or a negative errno. A read that does not fill its room has emptied the
    /// buffer: the one port that is bound stays out of it until it is unmasked.
    private func takePorts() -> Int {
        unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.room) { ports in
            guard let base = ports.baseAddress else { return 0 }
            var total = 0
            while true {
                // The kernel fills at most `room` elements.
                let count = unsafe calls.read(base, capacity: Self.room)
                if count == -Int(EAGAIN) { return total }
                guard count >= 0 else { return count }
                total &+= count
                if count < Self.room { return total }
            }
        }
    }

    private static let room = 16

    /// The buffer ran over: what was in it is lost. An event is assumed, and the port may be masked.
    private func recover() -> Bool {
        _ = calls.reset()
        isMasked = true
        return true
    }

    func unmask() {
        guard isMasked else { return }
        isMasked = false
        // Fails for ports that are not ours only.
        _ = calls.unmask(port)
    }

    func noteTaken() { isMasked = true }

    func takeUnmasking() -> UInt32? {
        guard isMasked else { return nil }
        isMasked = false
        return port
    }
}
