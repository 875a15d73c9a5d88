internal import CXen
internal import XenWire

/// Why the model hypervisor refuses a grant: the checks of xen/common/grant_table.c, one name for each.
public enum GrantRefusal: UInt8, Error, CaseIterable, Sendable {
    /// There is no such domain, or no longer.
    case noSuchDomain
    /// The reference lies beyond the domain's grant table.
    case referenceBeyondTable
    /// The entry is not of type GTF_permit_access: never granted, or revoked.
    case notGranted
    /// The entry grants to another domain than the one that asks.
    case otherDomain
    /// The entry is read-only and the caller wants to write.
    case readOnly
    /// The entry's frame is not one of the domain's.
    case frameBeyondMemory
    /// The segment does not lie within one page.
    case beyondPage

    /// The `GNTST_*` code that the caller sees.
    var status: Int16 {
        @_noLocks get {
            switch self {
            case .noSuchDomain: Int16(XEN_GNTST_bad_domain)
            case .referenceBeyondTable: Int16(XEN_GNTST_bad_gntref)
            case .notGranted, .otherDomain: Int16(XEN_GNTST_general_error)
            case .readOnly: Int16(XEN_GNTST_permission_denied)
            case .frameBeyondMemory: Int16(XEN_GNTST_bad_page)
            case .beyondPage: Int16(XEN_GNTST_bad_copy_arg)
            }
        }
    }
}

/// A v1 grant table entry (`struct xen_grant_entry`) in one register, as one load reads it and one store writes it.
struct GrantEntry: Equatable, Sendable {
    let bits: UInt64

    @_noLocks init(bits: UInt64) { self.bits = bits }

    /// An entry that grants `frame` to `domain`.
    @_noLocks init(granting frame: UInt32, to domain: DomainID, readOnly: Bool) {
        let flags = UInt64(XEN_GTF_permit_access) | (readOnly ? UInt64(XEN_GTF_readonly) : 0)
        bits = flags | UInt64(domain.rawValue) << 16 | UInt64(frame) << 32
    }

    /// An entry that grants nothing.
    static var unused: GrantEntry { GrantEntry(bits: 0) }

    var flags: UInt16 { @_noLocks get { UInt16(truncatingIfNeeded: bits) } }
    var domain: UInt16 { @_noLocks get { UInt16(truncatingIfNeeded: bits >> 16) } }
    var frame: UInt32 { @_noLocks get { UInt32(truncatingIfNeeded: bits >> 32) } }

    /// A mapping exists: GTF_reading or GTF_writing.
    var isMapped: Bool { @_noLocks get { flags & UInt16(XEN_GTF_reading | XEN_GTF_writing) != 0 } }

    /// The frame, if `domain` may use it like this. The one place where a grant is judged, for maps and copies alike.
    ///
    /// All that makes an entry good is compared at once; only a bad one is looked at bit by bit, for the reason.
    @_noLocks
    func frame(for domain: UInt16, writing: Bool, pages: UInt32) throws(GrantRefusal) -> UInt32 {
        let mask = UInt64(XEN_GTF_type_mask) | 0xFFFF << 16 | (writing ? UInt64(XEN_GTF_readonly) : 0)
        let good = UInt64(XEN_GTF_permit_access) | UInt64(domain) << 16
        guard bits & mask == good, frame < pages else { throw refusal(for: domain, writing: writing) }
        return frame
    }

    @_noLocks
    private func refusal(for domain: UInt16, writing: Bool) -> GrantRefusal {
        guard flags & UInt16(XEN_GTF_type_mask) == UInt16(XEN_GTF_permit_access) else { return .notGranted }
        guard self.domain == domain else { return .otherDomain }
        return writing && flags & UInt16(XEN_GTF_readonly) != 0 ? .readOnly : .frameBeyondMemory
    }
}
