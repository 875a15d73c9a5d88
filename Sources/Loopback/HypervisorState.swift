internal import CLinux
internal import Descriptors
internal import XenWire

/// Carries events to one end of a channel.
protocol EventSignal: AnyObject, Sendable {
    /// - Parameter isWaitedFor: a thread of its own sleeps until an event comes; otherwise it is only polled.
    init(isWaitedFor: Bool) throws(Fault)
    /// Makes an event pending.
    func send()
    /// Forgets a pending event.
    func clear()
}

/// All that the model hypervisor knows; who calls it and how events travel is decided by its owner.
struct HypervisorState<Signal: EventSignal> {
    /// Where a port's events arrive and where those that it sends go.
    struct Ends {
        let own: Signal
        let peer: Signal
    }

    typealias Address = EventChannelTable.Address

    private(set) var domains: [DomainID: DomainMemory] = [:]
    private(set) var ports = EventChannelTable()
    private(set) var maps = MapTrack()
    private var ends: [Address: Ends] = [:]

    /// Domain memory for a new domain; EEXIST if there is one of that number.
    mutating func createDomain(_ id: DomainID, _ size: DomainMemory.Size) throws(Fault) -> DomainMemory {
        guard domains[id] == nil else { throw Fault("create domain \(id)", errno: EEXIST) }
        guard size.references > 8, size.pages > size.tableFrames else {
            throw Fault("create domain \(id) of \(size.pages) frames", errno: EINVAL)
        }
        let memory = try DomainMemory(size)
        domains[id] = memory
        return memory
    }

    mutating func destroyDomain(_ id: DomainID) {
        domains.removeValue(forKey: id)?.records.markGone()
        for address in ports.closeAll(of: id) { ends[address] = nil }
    }

    /// A domain's memory for a copier, with a record of its own.
    func attach(_ id: DomainID) throws(Fault) -> (memory: DomainMemory, record: Int) {
        guard let memory = domains[id] else { throw Fault("copy from domain \(id)", errno: ESRCH) }
        guard let record = memory.records.claim() else { throw Fault("copiers of domain \(id)", errno: ENOSPC) }
        return (memory, record)
    }

    /// Maps all references or none. The caller sees EINVAL for whatever was wrong, as gntdev's mmap reports it.
    mutating func map(
        _ references: [UInt32], of id: DomainID, for mapping: DomainID, writable: Bool
    ) throws(Fault) -> (handle: UInt32, frames: [UInt32], memory: DomainMemory) {
        do throws(GrantRefusal) {
            guard let memory = domains[id] else { throw .noSuchDomain }
            let (handle, frames) = try maps.map(references, of: id, memory, for: mapping, writable: writable)
            return (handle, frames, memory)
        } catch {
            throw Fault("map grants of domain \(id): \(error)", errno: EINVAL)
        }
    }

    mutating func unmap(_ handle: UInt32) { maps.unmap(handle) }

    mutating func openPort(in domain: DomainID, for remote: DomainID) throws(Fault) -> (Address, Ends) {
        guard domains[domain] != nil else { throw Fault("event channel of domain \(domain)", errno: ESRCH) }
        let both = Ends(own: try Signal(isWaitedFor: true), peer: try Signal(isWaitedFor: false))
        let address = Address(domain: domain, port: ports.allocateUnbound(in: domain, for: remote))
        ends[address] = both
        return (address, both)
    }

    mutating func bind(in local: DomainID, to remote: Address) throws(Fault) -> (Address, Ends) {
        guard let other = ends[remote], let port = ports.bind(in: local, to: remote) else {
            throw Fault("bind to event channel \(remote.port) of domain \(remote.domain)", errno: EINVAL)
        }
        let address = Address(domain: local, port: port)
        let both = Ends(own: other.peer, peer: other.own)
        ends[address] = both
        // Events sent while nobody was bound are dropped, but the new port starts pending, because some may have been.
        both.own.clear()
        both.own.send()
        return (address, both)
    }

    mutating func close(_ address: Address) {
        ports.close(address)
        ends.removeValue(forKey: address)?.own.clear()
    }
}
