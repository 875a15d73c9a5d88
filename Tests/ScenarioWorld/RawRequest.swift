import CXen
package import XenWire

/// A request in the native layout, every field as the frontend likes.
package struct RawRequest {
    package struct Segment {
        package var reference: GrantReference
        package var first: UInt8
        package var last: UInt8

        package init(reference: GrantReference, first: UInt8, last: UInt8) {
            self.reference = reference
            self.first = first
            self.last = last
        }
    }

    package var operation: UInt8
    /// nr_segments, the discard flag or the inner operation.
    package var second: UInt8 = 0
    package var identifier: UInt64
    package var sector: UInt64 = 0
    /// In the request itself; at most 11.
    package var segments: [Segment] = []
    /// nr_segments of an indirect request and its pages; at most 8.
    package var indirectCount: UInt16 = 0
    package var indirectPages: [GrantReference] = []
    /// nr_sectors of a discard.
    package var discardSectors: UInt64 = 0

    package init(
        operation: UInt8, second: UInt8 = 0, identifier: UInt64, sector: UInt64 = 0, segments: [Segment] = [],
        indirectCount: UInt16 = 0, indirectPages: [GrantReference] = [], discardSectors: UInt64 = 0
    ) {
        self.operation = operation
        self.second = second
        self.identifier = identifier
        self.sector = sector
        self.segments = segments
        self.indirectCount = indirectCount
        self.indirectPages = indirectPages
        self.discardSectors = discardSectors
    }

    /// Writes the request into a ring slot.
    package func put(into slot: UnsafeMutableRawPointer, _ abi: BlockABI) {
        var bytes = [UInt8](repeating: 0, count: 112)
        unsafe bytes.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            unsafe encode(into: base)
            unsafe abi.putRequest(base, into: slot)
        }
    }

    /// `bytes` are 112, zeroed; layouts as in xen/io/blkif.h.
    private func encode(into bytes: UnsafeMutableRawPointer) {
        unsafe bytes.storeBytes(of: operation, as: UInt8.self)
        unsafe bytes.storeBytes(of: second, toByteOffset: 1, as: UInt8.self)
        unsafe bytes.storeBytes(of: identifier, toByteOffset: 8, as: UInt64.self)
        unsafe bytes.storeBytes(of: sector, toByteOffset: 16, as: UInt64.self)
        switch operation {
        case 5: unsafe bytes.storeBytes(of: discardSectors, toByteOffset: 24, as: UInt64.self)
        case 6:
            unsafe bytes.storeBytes(of: indirectCount, toByteOffset: 2, as: UInt16.self)
            for (index, page) in indirectPages.prefix(8).enumerated() {
                unsafe bytes.storeBytes(of: page.rawValue, toByteOffset: 28 + 4 * index, as: UInt32.self)
            }
        default:
            for (index, segment) in segments.prefix(11).enumerated() {
                unsafe Self.encode(segment, into: bytes + 24 + 8 * index)
            }
        }
    }

    /// Eight bytes of a request or of an indirect page.
    package static func encode(_ segment: Segment, into bytes: UnsafeMutableRawPointer) {
        let wire = blkif_segment_wire(
            gref: segment.reference.rawValue, first_sect: segment.first, last_sect: segment.last, pad: 0xffff)
        unsafe bytes.storeBytes(of: wire, as: blkif_segment_wire.self)
    }
}

/// A response as the frontend reads it.
package struct RawResponse {
    package let identifier: UInt64
    package let operation: UInt8
    package let status: Int16

    /// The same in both layouts; `slot` has at least 12 bytes.
    package init(_ slot: UnsafeRawPointer) {
        identifier = unsafe slot.loadUnaligned(as: UInt64.self)
        operation = unsafe slot.load(fromByteOffset: 8, as: UInt8.self)
        status = unsafe slot.load(fromByteOffset: 10, as: Int16.self)
    }
}
