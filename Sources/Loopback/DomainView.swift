internal import CXen
internal import XenWire

/// A domain's memory as one process has it mapped. The first frames hold the grant table.
///
/// Whoever makes a view keeps the mapping behind it alive for as long as the view is used; the `Attachment` and the
/// `GuestDomain` do.
@safe struct DomainView: Sendable {
    // Sendable although it holds pointers: the memory is shared by design, and every access to what two sides touch
    // goes through the atomic helpers of CXen.
    nonisolated(unsafe) let base: UnsafeMutableRawPointer
    /// Frames of the domain.
    let pages: UInt32
    /// Entries of its grant table.
    let references: UInt32

    init(base: UnsafeMutableRawPointer, pages: UInt32, references: UInt32) {
        unsafe self.base = base
        self.pages = pages
        self.references = references
    }

    /// The first byte of a frame below `pages`.
    @_noLocks func frame(_ number: UInt32) -> UnsafeMutableRawPointer {
        unsafe base + Int(number) << Int(XEN_PAGE_SHIFT_BITS)
    }

    /// The entry's address; `reference` is below `references`.
    @_noLocks func cell(_ reference: UInt32) -> UnsafeMutableRawPointer {
        unsafe base + Int(reference) << 3
    }

    /// The entry as it is now; `reference` is below `references`.
    @_noLocks func entry(_ reference: UInt32) -> GrantEntry {
        unsafe GrantEntry(bits: xen_load_relaxed64(cell(reference)))
    }

    /// Looks an entry up and judges it.
    @_noLocks
    func frame(of reference: UInt32, for domain: UInt16, writing: Bool) throws(GrantRefusal) -> UInt32 {
        guard reference < references else { throw .referenceBeyondTable }
        return try entry(reference).frame(for: domain, writing: writing, pages: pages)
    }
}
