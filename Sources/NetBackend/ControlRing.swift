internal import CXen
public import Descriptors
public import SharedRing
internal import Synchronization
public import Telemetry
public import XenWire

/// The control ring of an interface (netif.h, "Control ring"): a guest sets there how its packets are hashed and steered.
/// Served by steps that never block; owned by one thread.
///
/// Requests are answered one after the other, in order, with one response each: between two turns nothing is outstanding.
///
/// Safe because the ring's mapping and the page live as long as the object.
@safe public final class ControlRing {
    /// Readable from any thread.
    public let cells: Cells
    private let grants: any GrantTable
    private let events: any EventChannel
    private let domain: DomainID
    private let policy: SharedReceivePolicy
    private let follow: @Sendable () -> Void
    /// Keeps the ring's page mapped.
    private let mapping: GrantMapping
    private var ring: BackRing
    /// What was read from a guest's page.
    private let page: UnsafeMutableRawPointer
    private(set) var condition = NetCondition.running
    /// The request that is being answered.
    private var record: AnswerRecord
    private let journal: Journal?

    /// Maps the ring.
    ///
    /// - Parameters:
    ///   - recovers: an earlier process has served the ring; what it was answering lies in the policy's journal.
    ///   - follow: called after a change of what was set.
    public init(
        _ reference: GrantReference, of domain: DomainID, policy: SharedReceivePolicy, grants: any GrantTable,
        events: any EventChannel, recovers: Bool = false, follow: @escaping @Sendable () -> Void = {}
    ) throws(Fault) {
        let mapping = try grants.map([reference], of: domain, writable: true)
        // One page, which lives as long as this value.
        let base = unsafe mapping.base
        cells = Cells(count: ControlCounter.allCases.count)
        self.grants = grants
        self.events = events
        self.domain = domain
        self.policy = policy
        self.follow = follow
        self.mapping = mapping
        unsafe ring = BackRing(
            base: base, entries: NetRing.controlSlots, entrySize: NetRing.controlSlot,
            startingAt: xen_load_relaxed(base + Int(XEN_RING_RSP_PROD)))
        unsafe page = .allocate(byteCount: 4096, alignment: 4096)
        journal = policy.journal
        record = AnswerRecord(
            slots: 1, of: NetRing.controlSlot, in: policy.journal, at: PolicyRecord.controlOffset)
        if recovers { record.restore(to: ring) }
    }

    deinit { unsafe page.deallocate() }

    /// Answers what is there; true if there was anything.
    public func turn() -> Bool {
        guard condition == .running else { return false }
        guard let waiting = ring.waiting() else {
            condition = .violated(.ringOverrun)
            return false
        }
        var owesEvent = false
        for _ in 0..<waiting {
            answer()
            // One by one: what is set again by the next process is set as if for the first time.
            owesEvent = ring.publish() || owesEvent
        }
        if waiting > 0 { journal?.forgetFaults() }
        if owesEvent { events.notify() }
        return waiting > 0
    }

    /// Asks for an event and looks once more; true if the caller may sleep.
    public func arm() -> Bool { condition != .running || ring.arm() }

    private func answer() {
        let slot = UInt16(truncatingIfNeeded: ring.consumed & (NetRing.controlSlots &- 1))
        // 16 bytes of a slot of 16, read once, into a record with room for one.
        unsafe xen_copy_out(record.copies, ring.takeSlot(), NetRing.controlSlot)
        let request = unsafe record.copies.load(as: netif_ctrl_request_wire.self)
        record.note(ring.produced, 1)
        var response = netif_ctrl_response_wire(id: request.id, type: request.type, status: 0, data: 0)
        do throws(ControlStatus) {
            try goAlone(slot)
            response.data = try apply(ControlRequest.judge(request))
            count(.controlRequests)
        } catch {
            response.status = error.rawValue
            count(.controlRefused)
        }
        // Twelve bytes of a slot of 16.
        unsafe ring.responseSlot().storeBytes(of: response, as: netif_ctrl_response_wire.self)
    }

    /// A process has ended during this request, for a fault of its own: not again.
    private func goAlone(_ slot: UInt16) throws(ControlStatus) {
        guard let journal, journal.faults > 0 else { return }
        guard journal.condemned != slot else { throw .notSupported }
        journal.goAlone(slot)
    }

    /// The page is read before the policy is locked: queues never wait for a guest's grant.
    private func apply(_ request: ControlRequest) throws(ControlStatus) -> UInt32 {
        var settings = policy.current.hash
        let before = settings
        let data = try settings.apply(request) { read($0, $1) }
        guard settings != before else { return data }
        let now = settings
        policy.change { $0.hash = now }
        follow()
        return data
    }

    private func read(_ reference: GrantReference, _ bytes: Int) -> [UInt8]? {
        // A page of memory, for at most 512 bytes.
        var segment = unsafe xen_grant_copy_segment.fromGuest(
            domain, reference, offset: 0, length: UInt16(truncatingIfNeeded: bytes), to: page)
        guard unsafe grants.copy(&segment, count: 1, .fromGuest) == 0 else { return nil }
        return unsafe Array(UnsafeRawBufferPointer(start: page, count: bytes))
    }

    private func count(_ counter: ControlCounter) { cells.writer.add(counter.rawValue, 1) }
}

/// What a control ring counts: requests that were done, and those that were not.
public enum ControlCounter: Int, CaseIterable, Sendable {
    case controlRequests, controlRefused
}
