internal import CLinux
public import Descriptors
internal import SharedRing
internal import Synchronization
public import XenWire

/// The model hypervisor for a loopback world: holds the domains' memory and serves processes over a socket.
public final class HypervisorServer: GuestHypervisor {
    private let state = Mutex(HypervisorState<EventDescriptor>())
    private let loop: ServerLoop

    /// Listens in a loopback world's directory and serves until `stop`.
    public init(directory: String) throws(Fault) {
        loop = try ServerLoop(listeningAt: "\(directory)/\(LoopbackPlatform.socketName)")
    }

    /// Serves connections on a thread of its own until `stop`.
    public func start() throws(Fault) {
        try loop.start { [self] socket in ClientSession(self, socket) }
    }

    /// Ends the service; mappings stay valid, everything else is released.
    public func stop() { loop.stop() }

    public func createDomain(_ id: DomainID, pages: UInt32, references: UInt32) throws(Fault) -> GuestDomain {
        let size = DomainMemory.Size(pages: pages, references: references)
        return try GuestDomain(id, withState { state throws(Fault) in try state.createDomain(id, size) }, self)
    }

    public func destroyDomain(_ id: DomainID) {
        state.withLock { $0.destroyDomain(id) }
    }

    public func mappedPages(of domain: DomainID) -> Int {
        state.withLock { $0.maps.mappedPages(of: domain) }
    }

    public func openPort(in domain: DomainID, for remote: DomainID) throws(Fault) -> GuestPort {
        let (address, ends) = try withState { state throws(Fault) in try state.openPort(in: domain, for: remote) }
        let lease = PortLease { [self] in withState { $0.close(address) } }
        return GuestPort(
            number: address.port, channel: DescriptorChannel(own: ends.own, peer: ends.peer, lease: lease))
    }

    func withState<Result, Failure: Error>(
        _ body: (inout sending HypervisorState<EventDescriptor>) throws(Failure) -> sending Result
    ) throws(Failure) -> sending Result {
        try state.withLock(body)
    }
}
