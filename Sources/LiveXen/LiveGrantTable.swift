internal import CXen
internal import Descriptors
internal import Glibc
internal import SharedRing
internal import XenWire

/// What the kernel lets a backend do with a guest's pages, made out of calls that fail in their own ways.
///
/// Every reference is a number that the guest chose: a refusal is normal input.
final class LiveGrantTable: GrantTable {
    private let calls: any GrantCalls
    /// What `forget` wants to know, by the mapping's address. Mappings are made when a frontend connects only.
    private var indices: [UInt: UInt64] = [:]
    /// One thread's, like the table: whether it is being changed need not be checked at each copy.
    @exclusivity(unchecked) private var favoured: FavouredMemory?

    init(_ calls: any GrantCalls) {
        self.calls = calls
    }

    // MARK: Mapping

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        do throws(Fault) {
            return try mapAtOnce(references, of: domain, writable: writable)
        } catch {
            // One bad reference fails the whole, and the kernel does not say which one it was.
            throw firstRefused(references, of: domain, writable: writable) ?? error
        }
    }

    private func mapAtOnce(
        _ references: [GrantReference], of domain: DomainID, writable: Bool
    ) throws(Fault) -> GrantMapping {
        let pages = references.count
        var index: UInt64 = 0
        let recorded = calls.record(references, of: domain, index: &index)
        guard recorded == 0 else { throw Self.fault(references, domain, recorded) }
        var memory: UnsafeMutableRawPointer?
        let mapped = unsafe calls.map(index, pages: pages, writable: writable, memory: &memory)
        guard mapped == 0, let base = unsafe memory else {
            calls.forget(index, pages: pages)
            throw Self.fault(references, domain, mapped)
        }
        indices[UInt(bitPattern: base)] = index
        return unsafe GrantMapping(base: base, pages: pages, table: self)
    }

    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {
        guard let index = indices.removeValue(forKey: UInt(bitPattern: base)) else { return }
        unsafe calls.unmap(base, pages: pages)
        calls.forget(index, pages: pages)
    }

    /// Maps each reference alone, to find the one that cannot be; nil if each of them can.
    private func firstRefused(_ references: [GrantReference], of domain: DomainID, writable: Bool) -> Fault? {
        guard references.count > 1 else { return refusal(references, of: domain) }
        for reference in references {
            do throws(Fault) {
                _ = try mapAtOnce([reference], of: domain, writable: writable)
            } catch {
                return refusal([reference], of: domain) ?? error
            }
        }
        return nil
    }

    /// What Xen itself says about a reference: a failed map is always EINVAL, a copy has a status.
    private func refusal(_ references: [GrantReference], of domain: DomainID) -> Fault? {
        guard let reference = references.first else { return nil }
        var byte: UInt8 = 0
        let status = unsafe withUnsafeMutableBytes(of: &byte) { local -> Int16 in
            guard let local = local.baseAddress else { return Int16(XEN_GNTST_okay) }
            var probe = unsafe xen_grant_copy_segment.fromGuest(domain, reference, offset: 0, length: 1, to: local)
            // One byte goes into `byte`.
            return unsafe calls.copy(&probe, count: 1) == 0 ? probe.status : Int16(XEN_GNTST_okay)
        }
        let why = status == XEN_GNTST_okay ? GrantStatus.mapRefused : GrantStatus.name(status)
        return Fault("map grant \(reference) of domain \(domain) (\(why))", errno: EINVAL)
    }

    private static func fault(_ references: [GrantReference], _ domain: DomainID, _ result: Int32) -> Fault {
        let list = references.map { "\($0)" }.joined(separator: ", ")
        return Fault("map grants \(list) of domain \(domain)", errno: max(1, 0 &- result))
    }

    // MARK: Copying

    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection
    ) -> Int {
        // `segments` has `count` elements, in all calls.
        unsafe favoured?.name(segments, count, direction)
        if unsafe calls.copy(segments, count: count) == 0 { return unsafe Self.failures(in: segments, count) }
        return unsafe copyOneByOne(segments, count)
    }

    func favour(_ base: UnsafeMutableRawPointer, pages: Int, of domain: DomainID) {
        // The caller answers for the pages.
        unsafe favoured = FavouredMemory(base, pages: pages, of: domain, calls)
    }

    private static func failures(in segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int) -> Int {
        var failures = 0
        for index in 0..<count where unsafe segments[index].status != XEN_GNTST_okay { failures &+= 1 }
        return failures
    }

    /// The kernel refused the call as a whole (EFAULT, ENOMEM, EINVAL): it may have executed some of it and has not said
    /// what. Every segment is copied again, alone; copying twice is harmless, because nobody has looked at either side.
    private func copyOneByOne(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int) -> Int {
        var failures = 0
        for index in 0..<count {
            let segment = unsafe segments + index
            if unsafe calls.copy(segment, count: 1) != 0 {
                unsafe segment.pointee.status = Int16(XEN_GNTST_general_error)
            }
            if unsafe segment.pointee.status != XEN_GNTST_okay { failures &+= 1 }
        }
        return failures
    }
}

/// Words for a grant status (xen/grant_table.h, GNTTABOP_error_msgs).
enum GrantStatus {
    static func name(_ status: Int16) -> String {
        switch Int32(status) {
        case XEN_GNTST_bad_domain: "there is no such domain"
        case XEN_GNTST_bad_gntref: "the guest has not granted it"
        case XEN_GNTST_permission_denied: "the guest has not granted this access"
        case XEN_GNTST_bad_page: "the page is not the guest's"
        default: "Xen's grant status \(status)"
        }
    }

    /// The reference is good for a copy.
    static let mapRefused = "granted read-only, or Xen has no map handle left: gnttab_max_maptrack_frames"
}
