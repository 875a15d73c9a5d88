internal import CLinux
public import Descriptors
public import SharedRing
internal import Synchronization
public import XenWire

/// What a model guest asks of its hypervisor.
public protocol GuestHypervisor: AnyObject, Sendable {
    /// A new domain of `pages` frames with room for `references` grants.
    func createDomain(_ id: DomainID, pages: UInt32, references: UInt32) throws(Fault) -> GuestDomain
    /// Ends a domain: its ports close, nothing of it can be mapped or copied any more; what is mapped stays readable.
    func destroyDomain(_ id: DomainID)
    /// EVTCHNOP_alloc_unbound; the port closes when the object goes.
    func openPort(in domain: DomainID, for remote: DomainID) throws(Fault) -> GuestPort
    /// Pages of a domain that backends have mapped.
    func mappedPages(of domain: DomainID) -> Int
}

/// The guest's end of an event channel.
public final class GuestPort: Sendable {
    /// The port's number, for the frontend's `event-channel` key.
    public let number: EventPort
    /// Sends and receives.
    public let channel: any EventChannel & Sendable

    private let blocking: (any BlockingEvents)?

    init(number: EventPort, channel: any EventChannel & Sendable) {
        self.number = number
        self.channel = channel
        blocking = channel as? any BlockingEvents
    }

    /// Takes an event, waiting for it: one system call, where poll and drain are two. Returns at once where events are
    /// a scheduler's business.
    public func wait() { blocking?.wait() }

    /// Ends another thread's `wait`.
    public func wake() { blocking?.wake() }
}

/// A model guest as its own kernel sees it: memory, grants, ports.
@safe public final class GuestDomain: Sendable {
    /// Its number.
    public let id: DomainID
    /// Granting and ending grants.
    public let grants: GuestGrants
    private let memory: DomainMemory
    private let hypervisor: any GuestHypervisor
    private let frames: Mutex<RangeAllocator>
    private let references: Mutex<RangeAllocator>

    init(_ id: DomainID, _ memory: DomainMemory, _ hypervisor: any GuestHypervisor) {
        self.id = id
        self.memory = memory
        self.hypervisor = hypervisor
        grants = GuestGrants(memory)
        frames = Mutex(RangeAllocator(memory.size.tableFrames..<memory.size.pages))
        // The first entries are reserved for the toolstack (GNTTAB_NR_RESERVED_ENTRIES).
        references = Mutex(RangeAllocator(8..<memory.size.references))
    }

    /// Frames next to each other.
    public func allocateFrames(_ count: UInt32) throws(Fault) -> UInt32 {
        guard let first = frames.withLock({ $0.take(count) }) else {
            throw Fault("\(count) frames of domain \(id)", errno: ENOMEM)
        }
        return first
    }

    /// Returns frames of `allocateFrames`.
    public func freeFrames(_ first: UInt32, _ count: UInt32) {
        frames.withLock { $0.give(first, count) }
    }

    /// Grant references next to each other, granting nothing yet.
    public func allocateReferences(_ count: UInt32) throws(Fault) -> UInt32 {
        guard let first = references.withLock({ $0.take(count) }) else {
            throw Fault("\(count) grant references of domain \(id)", errno: ENOSPC)
        }
        return first
    }

    /// Returns references of `allocateReferences`, all of them ended.
    public func freeReferences(_ first: UInt32, _ count: UInt32) {
        references.withLock { $0.give(first, count) }
    }

    /// The memory of a frame; neighbouring frames follow it. Nil beyond the domain's end.
    public func memory(ofFrame frame: UInt32) -> UnsafeMutableRawPointer? {
        guard frame < memory.size.pages else { return nil }
        return unsafe memory.view.frame(frame)
    }

    /// The eight bytes of a grant table entry (`struct xen_grant_entry`), for guests that write them themselves. Nil
    /// beyond the table's end.
    public func grantEntry(_ reference: GrantReference) -> UnsafeMutableRawPointer? {
        guard reference.rawValue < memory.size.references else { return nil }
        return unsafe memory.view.cell(reference.rawValue)
    }

    /// A new port that `remote` may bind.
    public func openPort(for remote: DomainID) throws(Fault) -> GuestPort {
        try hypervisor.openPort(in: id, for: remote)
    }
}
