internal import CXen
internal import SharedRing
internal import XenWire

/// Memory of this process that it has granted to its own domain, so that copies can name it by reference.
///
/// Of a segment's local side gntdev otherwise looks up the page, pins it and lets it go, and not even sixteen at a time; where
/// both sides are references it hands them to Xen as they are. Not every kernel has gntalloc, which counts pages as well
/// (its `limit`): without, copies go by addresses.
///
/// Safe because references are used for the memory only that they were given for, within its bounds.
@safe struct FavouredMemory: ~Copyable {
    private let base: UInt64
    private let bytes: UInt64
    private let references: FixedTable<UInt32>
    private var second: SecondMapping?

    private static var page: UInt64 { @_noLocks get { UInt64(XEN_PAGE_SIZE_BYTES) } }
    /// Xen's name for whoever asks (xen.h, DOMID_SELF).
    private static var caller: UInt64 { @_noLocks get { 0x7FF0 } }

    /// Grants `pages` pages at `base`, which may be others then; nil if that cannot be, or is of no use.
    init?(_ base: UnsafeMutableRawPointer, pages: Int, of domain: DomainID, _ calls: any GrantCalls) {
        references = FixedTable(repeating: 0, count: pages)
        self.base = UInt64(UInt(bitPattern: base))
        bytes = UInt64(pages) * Self.page
        // The caller answers for the pages; a reference is written for each.
        guard pages > 1, unsafe calls.offer(base, to: domain, references.pointer, count: pages) == 0,
            unsafe works(base, calls)
        else { return nil }
        second = SecondMapping(references, of: domain, calls)
    }

    /// Copies a byte from the first page to the second: that Xen finds the grants, the domain being the right one, and that
    /// the kernel lets both sides be references.
    private func works(_ base: UnsafeMutableRawPointer, _ calls: any GrantCalls) -> Bool {
        let second = unsafe base + Int(Self.page)
        unsafe base.storeBytes(of: 0xA5, as: UInt8.self)
        unsafe second.storeBytes(of: 0, as: UInt8.self)
        var probe = xen_grant_copy_segment(
            source: name(0, length: 1) ?? 0, dest: name(Self.page, length: 1) ?? 0, length: 1,
            flags: UInt16(XEN_GNTCOPY_source_gref) | UInt16(XEN_GNTCOPY_dest_gref), status: -1, pad: 0)
        return unsafe calls.copy(&probe, count: 1) == 0 && probe.status == XEN_GNTST_okay
            && second.load(as: UInt8.self) == 0xA5
    }

    /// Puts references in the place of local addresses, where segments lie in one page each of this memory.
    @_noLocks func name(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int, _ direction: CopyDirection
    ) {
        // The caller answers for `count` segments, in both calls.
        switch direction {
        case .fromGuest: unsafe nameTargets(segments, count)
        case .toGuest: unsafe nameSources(segments, count)
        }
    }

    @_noLocks private func nameTargets(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int) {
        for index in 0..<count {
            let segment = unsafe segments + index
            guard let name = unsafe name(segment.pointee.dest &- base, length: segment.pointee.length) else { continue }
            unsafe segment.pointee.dest = name
            unsafe segment.pointee.flags |= UInt16(XEN_GNTCOPY_dest_gref)
        }
    }

    @_noLocks private func nameSources(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int) {
        for index in 0..<count {
            let segment = unsafe segments + index
            guard let name = unsafe name(segment.pointee.source &- base, length: segment.pointee.length) else {
                continue
            }
            unsafe segment.pointee.source = name
            unsafe segment.pointee.flags |= UInt16(XEN_GNTCOPY_source_gref)
        }
    }

    /// How Xen is told of so many bytes at an offset; nil if they do not lie in one page of the memory.
    @_noLocks private func name(_ offset: UInt64, length: UInt16) -> UInt64? {
        // What lies in front of the memory wraps around.
        guard offset < bytes else { return nil }
        let inPage = offset & (Self.page &- 1)
        guard inPage &+ UInt64(length) <= Self.page else { return nil }
        return UInt64(references[Int(offset / Self.page)]) | inPage << 32 | Self.caller << 48
    }
}

/// Pages of this domain that it has mapped by their references, only so that their grants are in use.
@safe final class SecondMapping {
    private let base: UnsafeMutableRawPointer
    private let pages: Int
    private let index: UInt64
    private let calls: any GrantCalls

    /// nil where it cannot be: all works without it.
    init?(_ references: borrowing FixedTable<UInt32>, of domain: DomainID, _ calls: any GrantCalls) {
        let names = (0..<references.count).map { GrantReference(references[$0]) }
        var index: UInt64 = 0
        guard calls.record(names, of: domain, index: &index) == 0 else { return nil }
        var memory: UnsafeMutableRawPointer?
        guard unsafe calls.map(index, pages: names.count, writable: true, memory: &memory) == 0,
            let base = unsafe memory
        else {
            calls.forget(index, pages: names.count)
            return nil
        }
        unsafe self.base = base
        self.index = index
        pages = names.count
        self.calls = calls
    }

    deinit {
        // Mapped by `init`.
        unsafe calls.unmap(base, pages: pages)
        calls.forget(index, pages: pages)
    }
}
