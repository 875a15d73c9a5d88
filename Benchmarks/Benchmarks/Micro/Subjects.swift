import CXen
import Descriptors
import Loopback
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

/// A chunk of eight whole pages that the model hypervisor copies to a guest.
@safe final class GrantCopies {
    private static let count = 8
    private let platform = ModelPlatform()
    private let table: any GrantTable
    private let local: UnsafeMutableRawPointer
    private let segments: UnsafeMutablePointer<xen_grant_copy_segment>

    init() throws(Fault) {
        let guest = try platform.createDomain(DomainID(1), pages: 64, references: 64)
        let frame = try guest.allocateFrames(UInt32(Self.count))
        let first = try guest.allocateReferences(UInt32(Self.count))
        table = platform.openGrantTable()
        // Both live until deinit; each segment has its own page of `local`.
        unsafe local = .allocate(byteCount: Self.count * 4096, alignment: 4096)
        unsafe local.initializeMemory(as: UInt8.self, repeating: 1, count: Self.count * 4096)
        unsafe segments = .allocate(capacity: Self.count)
        for index in 0..<Self.count {
            let reference = first + UInt32(index)
            guest.grants.grant(reference, frame: frame + UInt32(index), to: DomainID(0), readOnly: false)
            unsafe (segments + index).initialize(
                to: .toGuest(
                    DomainID(1), GrantReference(reference), offset: 0, length: 4096, from: local + index * 4096))
        }
    }

    deinit {
        unsafe segments.deallocate()
        unsafe local.deallocate()
    }

    /// Copies the chunk; how many segments were refused.
    func copy() -> Int { unsafe table.copy(segments, count: Self.count, .toGuest) }
}
