import CXen
import SharedRing
import XenWire

/// Both ends of one ring page in private memory.
@safe final class RingPair {
    private let page: UnsafeMutableRawPointer
    private let scratch: UnsafeMutableRawPointer
    private let abi: BlockABI
    private var front: FrontRing
    private var back: BackRing

    init(_ abi: BlockABI) {
        self.abi = abi
        // One page of ring and one native request, both freed in deinit.
        unsafe page = .allocate(byteCount: 4096, alignment: 4096)
        unsafe scratch = .allocate(byteCount: 112, alignment: 16)
        unsafe scratch.initializeMemory(as: UInt8.self, repeating: 0, count: 112)
        let entries = abi.entries(pages: 1)
        front = unsafe FrontRing(initialising: page, entries: entries, entrySize: abi.entrySize)
        back = unsafe BackRing(base: page, entries: entries, entrySize: abi.entrySize)
    }

    deinit {
        unsafe page.deallocate()
        unsafe scratch.deallocate()
    }

    /// Puts `count` requests, takes and answers them, takes the responses; how many came back.
    func roundTrip(_ count: UInt32) -> UInt32 {
        // Slots lie inside the ring page; `scratch` has a request's 112 bytes.
        for _ in 0..<count { unsafe abi.putRequest(scratch, into: front.requestSlot()) }
        _ = front.publish()
        for _ in 0..<(back.waiting() ?? 0) {
            unsafe abi.takeRequest(from: back.takeSlot(), into: scratch)
            unsafe abi.putResponse(into: back.responseSlot(), identifier: 0, operation: 0, status: .okay)
        }
        _ = back.publish()
        let answered = front.waiting() ?? 0
        for _ in 0..<answered { unsafe blackHoleByte(front.takeSlot()) }
        return answered
    }

    @inline(never) private func blackHoleByte(_ slot: UnsafeRawPointer) {}
}

/// A read request in the native layout.
@safe final class RequestBytes {
    private let bytes: UnsafeMutableRawPointer
    private let limits = RequestLimits()

    /// `segments` whole pages, at most 11.
    init(segments: UInt8) {
        unsafe bytes = .allocate(byteCount: 112, alignment: 16)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: 112)
        unsafe bytes.storeBytes(of: segments, toByteOffset: 1, as: UInt8.self)
        // Native layout: eight bytes per segment from offset 24; the sixth is last_sect.
        for index in 0..<Int(segments) { unsafe bytes.storeBytes(of: 7, toByteOffset: 29 + index * 8, as: UInt8.self) }
    }

    deinit { unsafe bytes.deallocate() }

    /// What a queue does with a request before it starts it; 0 sectors if it broke a rule.
    func judge() -> UInt32 {
        do throws(Violation) {
            let request = unsafe try BlockRequest.decode(bytes, within: limits)
            return unsafe try SegmentRules.totalSectors(
                UnsafePointer((bytes + 24).assumingMemoryBound(to: blkif_segment_wire.self)),
                count: request.segmentCount,
                alignmentMask: limits.alignmentMask)
        } catch {
            return 0
        }
    }
}
