internal import CXen
internal import Descriptors
internal import SharedRing
internal import XenWire

/// What a grant table handle asks of the hypervisor: the calls that are not made per batch. What a handle holds is
/// released when the object goes.
protocol GrantAuthority: AnyObject {
    /// The domain that uses grants.
    var domain: DomainID { get }
    /// A domain's memory and a record of its copiers.
    func attach(_ domain: DomainID) throws(Fault) -> (memory: DomainMemory, record: Int)
    /// Maps grants in the hypervisor's books.
    func map(
        _ references: [UInt32], of domain: DomainID, writable: Bool
    ) throws(Fault) -> (handle: UInt32, frames: [UInt32], memory: SharedMemory)
    /// Ends a `map`.
    func unmap(_ handle: UInt32)
}

/// A grant table handle of the model, in one process or across processes.
final class ModelGrantTable: GrantTable {
    private let authority: any GrantAuthority
    /// Keeps the memory behind the copiers; a stale one goes when its domain's number is used again.
    private var attachments: [UInt16: (memory: DomainMemory, copier: GrantCopier)] = [:]
    // A handle belongs to one queue's thread (GrantTable), and no call comes back here.
    @exclusivity(unchecked) private var copier: GrantCopier?
    private var handles: [UInt: UInt32] = [:]

    init(_ authority: any GrantAuthority) {
        self.authority = authority
    }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        let (handle, frames, memory) = try authority.map(
            references.map(\.rawValue), of: domain, writable: writable)
        do throws(Fault) {
            let base = unsafe try memory.map(frames: frames, writable: writable)
            handles[UInt(bitPattern: base)] = handle
            return unsafe GrantMapping(base: base, pages: references.count, table: self)
        } catch {
            authority.unmap(handle)
            throw error
        }
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {
        // Called once for each mapping that `map` made (GrantTable's contract).
        unsafe SharedMemory.unmap(base, pages: pages)
        guard let handle = handles.removeValue(forKey: UInt(bitPattern: base)) else { return }
        authority.unmap(handle)
    }

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        // The caller answers for `count` initialised segments; `done` stays below it.
        let toGuest = direction == .toGuest
        var done = 0
        var failed = 0
        while done < count {
            let domain = unsafe UInt16(truncatingIfNeeded: segments[done].foreign(toGuest: toGuest) >> 48)
            if let copier = copier(for: domain) {
                let run = unsafe copier.copy(segments + done, count: count - done, toGuest: toGuest)
                done += run.done
                failed += run.failed
            } else {
                unsafe segments[done].status = GrantRefusal.noSuchDomain.status
                done += 1
                failed += 1
            }
        }
        return failed
    }

    /// Usually the last one used: a queue serves one domain.
    private func copier(for domain: UInt16) -> GrantCopier? {
        if let copier = unsafe copier, copier.domain == domain, !copier.isStale { return copier }
        unsafe copier = attachedCopier(for: domain)
        return unsafe copier
    }

    private func attachedCopier(for domain: UInt16) -> GrantCopier? {
        if let known = attachments[domain], !known.copier.isStale { return known.copier }
        guard let (memory, record) = try? authority.attach(DomainID(domain)) else { return nil }
        let copier = GrantCopier(
            domain: domain, view: memory.view, records: memory.records, record: record,
            copying: authority.domain.rawValue)
        attachments[domain] = (memory, copier)
        return copier
    }
}
