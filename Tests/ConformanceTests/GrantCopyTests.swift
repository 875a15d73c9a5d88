import CXen
import SharedRing
import Testing
import XenWire

@Suite struct GrantCopyTests {
    /// The foreign side of a segment is packed into one integer, where gntdev.h has a structure.
    @Test func foreignSideIsPackedAsGntdevReadsIt() throws {
        let shifts = ConstantTests.xen
        let reference = try #require(shifts["foreign.ref shift"])
        let offset = try #require(shifts["foreign.offset shift"])
        let domain = try #require(shifts["foreign.domid shift"])
        let expected = UInt64(0x89ab_cdef) << reference | UInt64(0xffe) << offset | UInt64(0x7ff3) << domain
        var byte: UInt8 = 0
        unsafe withUnsafeMutableBytes(of: &byte) { local in
            guard let local = local.baseAddress else { return }
            let address = UInt64(UInt(bitPattern: local))
            let from = unsafe xen_grant_copy_segment.fromGuest(
                DomainID(0x7ff3), GrantReference(0x89ab_cdef), offset: 0xffe, length: 2, to: local)
            #expect(from.source == expected && from.dest == address)
            #expect(Int64(from.flags) == shifts["GNTCOPY_source_gref"] && from.length == 2)
            let to = unsafe xen_grant_copy_segment.toGuest(
                DomainID(0x7ff3), GrantReference(0x89ab_cdef), offset: 0xffe, length: 2, from: local)
            #expect(to.dest == expected && to.source == address)
            #expect(Int64(to.flags) == shifts["GNTCOPY_dest_gref"] && to.length == 2)
        }
    }
}
