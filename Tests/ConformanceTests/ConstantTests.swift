import CXen
import CXenReference
import Testing
import XenWire

@Suite struct ConstantTests {
    /// Constants of Xen's headers by name; constant data of the test's own C target.
    static let xen = unsafe table(reference_constants())

    /// The table that starts at `first` and ends with an empty name.
    static func table(_ first: UnsafePointer<reference_constant>) -> [String: Int64] {
        var values: [String: Int64] = [:]
        var row = unsafe first
        while unsafe row.pointee.name.pointee != 0 {
            unsafe values[String(cString: row.pointee.name)] = unsafe row.pointee.value
            unsafe row += 1
        }
        return values
    }

    @Test(arguments: [
        ("BLKIF_OP_READ", BlockOperation.read), ("BLKIF_OP_WRITE", .write), ("BLKIF_OP_WRITE_BARRIER", .barrier),
        ("BLKIF_OP_FLUSH_DISKCACHE", .flush), ("BLKIF_OP_DISCARD", .discard),
    ]) func operations(name: String, operation: BlockOperation) {
        #expect(Self.xen[name] == Int64(operation.rawValue))
    }

    @Test(arguments: [
        ("BLKIF_RSP_OKAY", BlockStatus.okay), ("BLKIF_RSP_ERROR", .error), ("BLKIF_RSP_EOPNOTSUPP", .unsupported),
    ]) func statuses(name: String, status: BlockStatus) {
        #expect(Self.xen[name] == Int64(status.rawValue))
    }

    @Test func segmentLimits() throws {
        let perPage = try #require(Self.xen["segments per indirect page"])
        let pages = try #require(Self.xen["BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST"])
        #expect(Self.xen["BLKIF_MAX_SEGMENTS_PER_REQUEST"] == Int64(SegmentLimit.direct))
        #expect(perPage == Int64(SegmentLimit.perIndirectPage))
        #expect(perPage * pages == Int64(SegmentLimit.indirect))
    }

    /// The constants of CXen.h, which carry Xen's names behind a prefix.
    @Test(arguments: [
        ("GTF_permit_access", Int64(XEN_GTF_permit_access)), ("GTF_type_mask", Int64(XEN_GTF_type_mask)),
        ("GTF_readonly", Int64(XEN_GTF_readonly)), ("GTF_reading", Int64(XEN_GTF_reading)),
        ("GTF_writing", Int64(XEN_GTF_writing)), ("GNTCOPY_source_gref", Int64(XEN_GNTCOPY_source_gref)),
        ("GNTCOPY_dest_gref", Int64(XEN_GNTCOPY_dest_gref)), ("GNTST_okay", Int64(XEN_GNTST_okay)),
        ("GNTST_general_error", Int64(XEN_GNTST_general_error)), ("GNTST_bad_domain", Int64(XEN_GNTST_bad_domain)),
        ("GNTST_bad_gntref", Int64(XEN_GNTST_bad_gntref)),
        ("GNTST_permission_denied", Int64(XEN_GNTST_permission_denied)),
        ("GNTST_bad_page", Int64(XEN_GNTST_bad_page)), ("GNTST_bad_copy_arg", Int64(XEN_GNTST_bad_copy_arg)),
    ]) func grantConstants(name: String, ours: Int64) {
        #expect(Self.xen[name] == ours)
    }

    /// `BlockRequest.decode` knows indirect requests by their number.
    @Test func indirectIsSix() {
        #expect(Self.xen["BLKIF_OP_INDIRECT"] == 6)
    }
}
