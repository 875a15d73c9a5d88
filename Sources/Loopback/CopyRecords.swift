internal import CXen

/// What of a domain's memory is being copied right now, for the revoking guest to see.
///
/// Xen takes a lock and sets GTF_reading for the length of a copy. Two locked instructions per segment would be most of
/// what a copy costs here, so the model borrows from hazard pointers: a copier publishes the references of a batch in
/// its own record, executes one full fence, and only then reads the entries; whoever revokes clears the entry,
/// executes one full fence, and only then reads the records. Either the copier sees the cleared entry, or the revoker
/// sees the record. It is a page of header and one page per copier, shared by all processes that serve the domain:
///
///     header  0: bit n set = record n is in use      8: not 0 = the domain is gone
///     record  0: number of references                64: the references
@safe struct CopyRecords: Sendable {
    /// Copiers that one domain can have.
    static var capacity: Int { 64 }
    /// References in one record; a longer batch is done in runs.
    static var referencesPerRecord: Int { @_noLocks get { (Int(XEN_PAGE_SIZE_BYTES) - 64) / 4 } }
    static var bytes: Int { (1 + capacity) * Int(XEN_PAGE_SIZE_BYTES) }

    // See DomainView: shared by design, touched through CXen's atomics only, kept mapped by the view's owner.
    nonisolated(unsafe) private let base: UnsafeMutableRawPointer

    init(base: UnsafeMutableRawPointer) {
        unsafe self.base = base
    }

    /// The record with a number below `capacity`.
    @_noLocks func record(_ number: Int) -> CopyRecord {
        unsafe CopyRecord(base: base + (1 + number) * Int(XEN_PAGE_SIZE_BYTES))
    }

    /// The domain was destroyed; nothing of it may be used any more.
    var isGone: Bool { @_noLocks get { unsafe xen_load_acquire(base + 8) != 0 } }

    func markGone() {
        unsafe xen_store_release(base + 8, 1)
    }

    /// Which records belong to a copier.
    var used: UInt64 {
        @_noLocks get { unsafe xen_load_acquire64(base) }
    }

    /// Takes a free record; called by the hypervisor, under its lock.
    func claim() -> Int? {
        let free = (~used).trailingZeroBitCount
        guard free < Self.capacity else { return nil }
        record(free).clear()
        unsafe xen_store_release64(base, used | 1 << UInt64(free))
        return free
    }

    /// Gives a record back; a copier that died in the middle of a batch copies no more.
    func release(_ number: Int) {
        record(number).clear()
        unsafe xen_store_release64(base, used & ~(1 << UInt64(number)))
    }
}

/// One copier's record.
@safe struct CopyRecord: Sendable {
    // As in CopyRecords.
    nonisolated(unsafe) private let base: UnsafeMutableRawPointer

    @_noLocks init(base: UnsafeMutableRawPointer) {
        unsafe self.base = base
    }

    /// Sets one of the batch's references; `index` is below `referencesPerRecord`.
    @_noLocks func set(_ index: Int, _ reference: UInt32) {
        unsafe xen_store_relaxed(base + 64 + index << 2, reference)
    }

    @_noLocks func reference(_ index: Int) -> UInt32 {
        unsafe xen_load_relaxed(base + 64 + index << 2)
    }

    /// Announces the first `count` references: from here until `clear` they are in use.
    @_noLocks func publish(_ count: Int) {
        unsafe xen_store_release(base, UInt32(truncatingIfNeeded: count))
        xen_full_fence()
    }

    @_noLocks func clear() {
        unsafe xen_store_release(base, 0)
    }

    /// References in use now. The bound is for a record that a dying process left half written.
    var count: Int {
        @_noLocks get {
            let written = unsafe Int(xen_load_acquire(base))
            return written < CopyRecords.referencesPerRecord ? written : CopyRecords.referencesPerRecord
        }
    }
}
