internal import XenWire

/// The ports of all domains and how they are connected: the rules of xen/common/event_channel.c, without the events.
struct EventChannelTable {
    enum State: Equatable {
        /// Waits for a domain to bind; events sent to it are dropped.
        case unbound(for: DomainID)
        /// One end of a channel.
        case interdomain(DomainID, EventPort)
    }

    /// A port and the domain it belongs to.
    struct Address: Hashable {
        let domain: DomainID
        let port: EventPort
    }

    private var states: [Address: State] = [:]
    private var next: [DomainID: UInt32] = [:]

    func state(of address: Address) -> State? { states[address] }

    /// EVTCHNOP_alloc_unbound.
    mutating func allocateUnbound(in domain: DomainID, for remote: DomainID) -> EventPort {
        add(.unbound(for: remote), in: domain)
    }

    /// EVTCHNOP_bind_interdomain, or nil for EINVAL: the remote port must be unbound and waiting for this domain.
    mutating func bind(in local: DomainID, to remote: Address) -> EventPort? {
        guard states[remote] == .unbound(for: local) else { return nil }
        let port = add(.interdomain(remote.domain, remote.port), in: local)
        states[remote] = .interdomain(local, port)
        return port
    }

    /// EVTCHNOP_close: the other end becomes unbound again, waiting for the domain that closed, so that a new process
    /// of that domain can bind it.
    mutating func close(_ address: Address) {
        guard case .interdomain(let domain, let port)? = states.removeValue(forKey: address) else { return }
        states[Address(domain: domain, port: port)] = .unbound(for: address.domain)
    }

    /// Closes what a dying domain leaves.
    mutating func closeAll(of domain: DomainID) -> [Address] {
        let addresses = states.keys.filter { $0.domain == domain }
        for address in addresses { close(address) }
        return addresses
    }

    private mutating func add(_ state: State, in domain: DomainID) -> EventPort {
        // Ports are not reused, so that a stale one is an error and not another channel. Port 0 is never valid.
        let number = next[domain, default: 0] &+ 1
        next[domain] = number
        states[Address(domain: domain, port: EventPort(number))] = state
        return EventPort(number)
    }
}
