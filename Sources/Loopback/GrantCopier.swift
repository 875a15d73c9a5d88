internal import CXen

/// Copies between granted pages of one domain and the memory of the domain that the grants are for.
///
/// The performance-critical part of the model: per segment one reference published, one entry read and judged, one
/// memcpy. The pointers behind `view` and `record` are kept alive by the grant table that owns the copier.
struct GrantCopier {
    /// The granting domain.
    let domain: UInt16
    private let view: DomainView
    private let records: CopyRecords
    private let record: CopyRecord
    /// The domain that copies.
    private let copying: UInt16

    init(domain: UInt16, view: DomainView, records: CopyRecords, record: Int, copying: UInt16) {
        self.domain = domain
        self.view = view
        self.records = records
        self.record = records.record(record)
        self.copying = copying
    }

    /// The domain was destroyed since this copier was made.
    var isStale: Bool { records.isGone }

    /// Executes the leading segments that name this copier's domain and fit one record, at least one if the first does,
    /// sets the status of each and returns how many they were and how many of them failed.
    @_noLocks
    func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, toGuest: Bool
    ) -> (done: Int, failed: Int) {
        // The caller answers for `count` initialised segments; indices stay below it.
        let run = unsafe announce(segments, count: count, toGuest: toGuest)
        var failed = 0
        var index = 0
        while index < run {
            let status = unsafe move(segments[index], toGuest: toGuest)
            unsafe segments[index].status = status
            if status != XEN_GNTST_okay { failed &+= 1 }
            index &+= 1
        }
        record.clear()
        return (run, failed)
    }

    /// Publishes the run's references as being copied.
    @_noLocks
    private func announce(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, toGuest: Bool
    ) -> Int {
        let limit = count < CopyRecords.referencesPerRecord ? count : CopyRecords.referencesPerRecord
        var index = 0
        while index < limit {
            let foreign = unsafe segments[index].foreign(toGuest: toGuest)
            guard UInt16(truncatingIfNeeded: foreign >> 48) == domain else { break }
            record.set(index, UInt32(truncatingIfNeeded: foreign))
            index &+= 1
        }
        record.publish(index)
        return index
    }

    /// One segment; its `GNTST_*` status.
    @_noLocks
    private func move(_ segment: xen_grant_copy_segment, toGuest: Bool) -> Int16 {
        do throws(GrantRefusal) {
            let page = unsafe try granted(segment, toGuest: toGuest)
            // The local side is the caller's memory of `length` bytes; the guest's side lies within one frame.
            if toGuest {
                unsafe xen_copy_bytes(page, local(segment.source), Int(segment.length))
            } else {
                unsafe xen_copy_bytes(local(segment.dest), page, Int(segment.length))
            }
            return Int16(XEN_GNTST_okay)
        } catch {
            return error.status
        }
    }

    /// The segment's first byte in the granting domain's memory.
    @_noLocks
    private func granted(
        _ segment: xen_grant_copy_segment, toGuest: Bool
    ) throws(GrantRefusal) -> UnsafeMutableRawPointer {
        guard !records.isGone else { throw .noSuchDomain }
        let foreign = segment.foreign(toGuest: toGuest)
        let offset = UInt32(UInt16(truncatingIfNeeded: foreign >> 32))
        guard offset &+ UInt32(segment.length) <= UInt32(XEN_PAGE_SIZE_BYTES) else { throw .beyondPage }
        let reference = UInt32(truncatingIfNeeded: foreign)
        let frame = try view.frame(of: reference, for: copying, writing: toGuest)
        return unsafe view.frame(frame) + Int(offset)
    }

    @_noLocks
    private func local(_ address: UInt64) -> UnsafeMutableRawPointer {
        // Made from a pointer by xen_grant_copy_segment.fromGuest or .toGuest, hence not null.
        unsafe UnsafeMutableRawPointer(bitPattern: UInt(address)).unsafelyUnwrapped
    }
}

extension xen_grant_copy_segment {
    /// The side that names a grant.
    @_noLocks func foreign(toGuest: Bool) -> UInt64 {
        toGuest ? dest : source
    }
}
