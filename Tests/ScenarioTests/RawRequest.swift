import CXen
import XenWire

/// A request in the native layout, every field as the frontend likes.
struct RawRequest {
    struct Segment {
        var reference: GrantReference
        var first: UInt8
        var last: UInt8
    }

    var operation: UInt8
    /// nr_segments, the discard flag or the inner operation.
    var second: UInt8 = 0
    var identifier: UInt64
    var sector: UInt64 = 0
    /// In the request itself; at most 11.
    var segments: [Segment] = []
    /// nr_segments of an indirect request and its pages; at most 8.
    var indirectCount: UInt16 = 0
    var indirectPages: [GrantReference] = []
    /// nr_sectors of a discard.
    var discardSectors: UInt64 = 0

    /// Writes the request into a ring slot.
    func put(into slot: UnsafeMutableRawPointer, _ abi: BlockABI) {
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
    static func encode(_ segment: Segment, into bytes: UnsafeMutableRawPointer) {
        let wire = blkif_segment_wire(
            gref: segment.reference.rawValue, first_sect: segment.first, last_sect: segment.last, pad: 0xffff)
        unsafe bytes.storeBytes(of: wire, as: blkif_segment_wire.self)
    }
}

/// A response as the frontend reads it.
struct RawResponse {
    let identifier: UInt64
    let operation: UInt8
    let status: Int16

    /// The same in both layouts; `slot` has at least 12 bytes.
    init(_ slot: UnsafeRawPointer) {
        identifier = unsafe slot.loadUnaligned(as: UInt64.self)
        operation = unsafe slot.load(fromByteOffset: 8, as: UInt8.self)
        status = unsafe slot.load(fromByteOffset: 10, as: Int16.self)
    }
}
