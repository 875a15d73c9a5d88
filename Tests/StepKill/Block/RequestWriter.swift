import CXen
import XenWire

/// Writes a request to its slot and what it needs to its page.
struct RequestWriter {
    let region: BlockRegion
    let page: Int
    let request: BlockGuest.Open

    /// - Parameters:
    ///   - slot: 112 bytes.
    ///   - disk: which copy of the disk is meant.
    @unsafe func write(_ kind: BlockGuest.Kind, to slot: UnsafeMutableRawPointer, disk: Int) {
        fill()
        // Over the whole slot. Offsets as in blkif.h.
        unsafe slot.initializeMemory(as: UInt8.self, repeating: 0xee, count: 112)
        unsafe slot.storeBytes(of: request.operation, as: UInt8.self)
        unsafe slot.storeBytes(of: Self.identifier(page, request.serial), toByteOffset: 8, as: UInt64.self)
        let sector = UInt64(disk * BlockRegion.sectors + request.sector)
        unsafe slot.storeBytes(of: sector, toByteOffset: 16, as: UInt64.self)
        if kind == .discard {
            unsafe slot.storeBytes(of: 0, toByteOffset: 1, as: UInt8.self)
            unsafe slot.storeBytes(of: UInt64(request.places.count), toByteOffset: 24, as: UInt64.self)
        } else {
            unsafe describe(segments, slot, isIndirect: kind == .indirect)
        }
    }

    /// Fills the page with what is to be written, or with what a read has to replace.
    private func fill() {
        guard let memory = unsafe region.page(UInt32(page)) else { return }
        for (place, sector) in zip(request.places, request.sectors) {
            let word = request.operation == 0 ? 0xdede_dede : Content.word(write: request.serial, sector: sector)
            // A sector of the page.
            unsafe Content.fill(memory + place * BlockRegion.sectorBytes, word)
        }
    }

    /// The table of segments lies in the slot, or at the beginning of the page.
    private func describe(_ segments: [blkif_segment_wire], _ slot: UnsafeMutableRawPointer, isIndirect: Bool) {
        var table = unsafe slot + 24
        unsafe slot.storeBytes(of: UInt8(segments.count), toByteOffset: 1, as: UInt8.self)
        if isIndirect, let memory = unsafe region.page(UInt32(page)) {
            unsafe slot.storeBytes(of: 6, as: UInt8.self)
            unsafe slot.storeBytes(of: request.operation, toByteOffset: 1, as: UInt8.self)
            unsafe slot.storeBytes(of: UInt16(segments.count), toByteOffset: 2, as: UInt16.self)
            unsafe slot.storeBytes(of: UInt32(page), toByteOffset: 28, as: UInt32.self)
            unsafe table = memory
        }
        for (index, segment) in segments.enumerated() {
            unsafe table.storeBytes(of: segment, toByteOffset: index * 8, as: blkif_segment_wire.self)
        }
    }

    /// Neighbouring places make one segment.
    private var segments: [blkif_segment_wire] {
        var segments: [blkif_segment_wire] = []
        for place in request.places.map(UInt8.init) {
            if let last = segments.last, last.last_sect + 1 == place {
                segments[segments.count - 1].last_sect = place
            } else {
                segments.append(
                    blkif_segment_wire(gref: UInt32(page), first_sect: place, last_sect: place, pad: 0))
            }
        }
        return segments
    }

    /// Never the same again, so that a late answer is not taken for another's.
    static func identifier(_ page: Int, _ serial: UInt32) -> UInt64 { UInt64(serial) << 8 | UInt64(page) }
}
