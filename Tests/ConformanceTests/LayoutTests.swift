import CXen
import CXenReference
import Testing
import XenWire

/// A row of the reference's tables, in Swift's own types.
struct Field: CustomTestStringConvertible, Sendable {
    let name: String
    let offset: UInt32
    let size: UInt32
    let referenceOffset: UInt32
    let referenceSize: UInt32
    var testDescription: String { name }

    /// The table that starts at `first` and ends with an empty name; it is constant data of the test's own C target.
    static func table(_ first: UnsafePointer<reference_field>) -> [Field] {
        var fields: [Field] = []
        var row = unsafe first
        while unsafe row.pointee.name.pointee != 0 {
            let entry = unsafe row.pointee
            fields.append(
                unsafe Field(
                    name: String(cString: entry.name), offset: entry.offset, size: entry.size,
                    referenceOffset: entry.reference_offset, referenceSize: entry.reference_size))
            unsafe row += 1
        }
        return fields
    }

    static let all =
        unsafe table(reference_fields()) + table(reference_fields_x86_32()) + table(reference_fields_linux())
}

@Suite struct LayoutTests {
    @Test(arguments: Field.all) func fieldLiesWhereXenPutsIt(field: Field) {
        #expect(field.offset == field.referenceOffset, "offset of \(field.name)")
        #expect(field.size == field.referenceSize, "size of \(field.name)")
    }

    /// Swift's importer must see what the C compiler saw, packed structures included.
    @Test func swiftSeesTheSameLayout() {
        #expect(MemoryLayout<blkif_request_64>.size == 112)
        #expect(MemoryLayout<blkif_request_32>.size == 108)
        #expect(MemoryLayout<blkif_request_32>.stride == 108)
        #expect(MemoryLayout<blkif_request_32>.offset(of: \.sector_number) == 12)
        #expect(MemoryLayout<blkif_discard_32>.offset(of: \.nr_sectors) == 20)
        #expect(MemoryLayout<blkif_indirect_32>.offset(of: \.indirect_grefs) == 24)
        #expect(MemoryLayout<blkif_response_32>.size == 12)
        #expect(MemoryLayout<xen_grant_copy_segment>.offset(of: \.status) == 20)
    }

    /// A table that lost its rows would agree with everything.
    @Test func tablesAreComplete() {
        #expect(Field.all.count == 2 * 29 + 24 + 2 + 6)
    }

    @Test(arguments: 1...16) func ringsOfEverySizeHoldWhatRingHSays(pages: Int) {
        let memory = SharedPages(pages)
        for abi in BlockABI.allCases {
            let reference = unsafe abi.reference.ring_size(memory.base, UInt32(pages))
            #expect(abi.entries(pages: pages) == reference, "\(abi), \(pages) pages")
            #expect(abi.entrySize == Int(abi.reference.request_bytes))
        }
    }

    @Test func noPagesHoldNoEntries() {
        for abi in BlockABI.allCases { #expect(abi.entries(pages: 0) == 0) }
    }
}
