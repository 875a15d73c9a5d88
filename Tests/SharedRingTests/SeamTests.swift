import CXen
import SharedRing
import Testing
import XenWire

@Test func grantCopySegmentsCarryBothSides() {
    var byte: UInt8 = 0
    let segment = unsafe withUnsafeMutableBytes(of: &byte) { bytes in
        unsafe bytes.baseAddress.map {
            unsafe xen_grant_copy_segment.fromGuest(DomainID(7), GrantReference(9), offset: 512, length: 1024, to: $0)
        }
    }
    #expect(segment?.source == 9 | 512 << 32 | 7 << 48)
    #expect(segment?.flags == 1)
}
