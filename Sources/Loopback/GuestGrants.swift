internal import CXen
public import XenWire

/// What a guest's kernel does with its own grant table (Linux, drivers/xen/grant-table.c).
///
/// A value for frontends' hot paths; the `GuestDomain` that made it keeps the memory and must outlive it.
public struct GuestGrants: Sendable {
    /// One grant that is to be ended, and what became of it.
    public struct Ending: BitwiseCopyable {
        /// Which.
        public var reference: UInt32
        /// The backend still has it mapped or is copying: the grant was left as it was.
        public var isInUse: Bool
        fileprivate var entry: UInt64

        /// A grant to be ended.
        @_noLocks public init(_ reference: UInt32) {
            self.reference = reference
            isInUse = false
            entry = 0
        }
    }

    private let view: DomainView
    private let records: CopyRecords

    init(_ memory: DomainMemory) {
        view = memory.view
        records = memory.records
    }

    /// Grants a frame (gnttab_grant_foreign_access_ref). Visible no later than the ring index published after it.
    @_noLocks
    public func grant(_ reference: UInt32, frame: UInt32, to domain: DomainID, readOnly: Bool) {
        guard reference < view.references else { return }
        // Within the table, by the line above.
        unsafe xen_store_release64(
            view.cell(reference), GrantEntry(granting: frame, to: domain, readOnly: readOnly).bits)
    }

    /// Ends grants (gnttab_end_foreign_access_ref for each) and returns how many are still in use.
    ///
    /// One call for all that a batch of responses gives back: the records are read once.
    @_noLocks
    public func end(_ endings: UnsafeMutablePointer<Ending>, count: Int) -> Int {
        // The caller answers for `count` initialised elements.
        var inUse = 0
        var index = 0
        while index < count {
            if unsafe !revoke(&endings[index]) { inUse &+= 1 }
            index &+= 1
        }
        // Pairs with the fence in CopyRecord.publish.
        xen_full_fence()
        return unsafe inUse &+ restoreCopied(endings, count: count)
    }

    /// Ends one grant; false if it is in use.
    public func end(_ reference: GrantReference) -> Bool {
        var ending = Ending(reference.rawValue)
        return unsafe end(&ending, count: 1) == 0
    }

    /// Clears an entry that nobody has mapped.
    @_noLocks
    private func revoke(_ ending: inout Ending) -> Bool {
        guard ending.reference < view.references else { return true }
        while true {
            let entry = view.entry(ending.reference)
            ending.entry = entry.bits
            ending.isInUse = entry.isMapped
            if ending.isInUse { return false }
            // Within the table, by the first line.
            if unsafe xen_compare_exchange64(view.cell(ending.reference), entry.bits, 0) != 0 { return true }
        }
    }

    /// Puts entries back that are being copied at this moment; returns how many.
    @_noLocks
    private func restoreCopied(_ endings: UnsafeMutablePointer<Ending>, count: Int) -> Int {
        var restored = 0
        var remaining = records.used
        while remaining != 0 {
            let record = records.record(remaining.trailingZeroBitCount)
            remaining &= remaining &- 1
            let copying = record.count
            var index = 0
            while index < copying {
                let reference = record.reference(index)
                index &+= 1
                // An entry that is not empty was not revoked: the usual case, and no search is needed.
                guard reference < view.references, view.entry(reference).bits == 0 else { continue }
                restored &+= unsafe restore(reference, endings, count: count)
            }
        }
        return restored
    }

    @_noLocks
    private func restore(_ reference: UInt32, _ endings: UnsafeMutablePointer<Ending>, count: Int) -> Int {
        var index = 0
        while index < count {
            // Below `count`, see `end`; the reference is within the table, else it would not have an entry.
            if unsafe endings[index].reference == reference && !endings[index].isInUse && endings[index].entry != 0 {
                unsafe endings[index].isInUse = true
                unsafe xen_store_release64(view.cell(reference), endings[index].entry)
                return 1
            }
            index &+= 1
        }
        return 0
    }
}
