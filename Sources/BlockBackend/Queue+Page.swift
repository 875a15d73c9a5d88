internal import CXen
internal import SharedRing
internal import Telemetry
internal import Uring
internal import XenWire

/// What is kept of a page request beside its private copy. It lies in the copy's room for a second segment, which a page
/// request has not: all that the short way looks at is in the in-flight entry's first cache line.
struct PageRequest: BitwiseCopyable {
    /// When it was taken, nanoseconds << 1, and in the last bit whether it writes.
    var key: UInt64
    /// Its length, at most a page.
    var bytes: UInt32

    var writes: Bool { @inline(__always) get { key & 1 != 0 } }
}

// The short way of page requests: sound, aligned reads and writes of one segment, which is what small random I/O is
// made of. This is the code whose instructions are counted. Every entry of the in-flight table has a page of buffer
// memory of its own for it, and a read is answered in the pass that gathers its data: the answer is published only
// after the data was copied, and corrected before if that failed. Whatever is not a page request, and every failure,
// takes the general way.
//
// Indices come from the in-flight table's free list and go round through the engine and the copy batches as they are,
// so entries are addressed without a check.
extension QueueCore {
    /// Takes the next request (F1, F2) and starts it. False if no further one may be taken.
    @inline(__always) mutating func takeOne() -> Bool {
        guard let index = inFlight.allocate() else { return false }
        let request = unsafe inFlight.request(index)
        let slot = unsafe ring.takeSlot()  // inside the mapped ring; the entry has 112 bytes
        unsafe abi.takeHead(from: slot, into: request)
        let head = unsafe request.load(as: UInt16.self)  // operation | segments << 8
        if head &- 0x100 < pageOperations {
            inFlight.markInFlight(index)
            if unsafe takePage(index, request, writes: head & 1) { return true }
        } else {
            unsafe abi.takeRest(from: slot, into: request)
            inFlight.markInFlight(index)
        }
        takeOther(index)
        return stalled.isEmpty
    }

    /// Starts a page request; false if it is not sound, and then nothing was done.
    @inline(__always)
    private mutating func takePage(_ index: UInt16, _ request: UnsafeMutableRawPointer, writes: UInt16) -> Bool {
        let segment = unsafe Self.segments(in: request).pointee
        let sectors = SegmentRules.soundSectors(segment)
        let sector = unsafe request.load(fromByteOffset: 16, as: UInt64.self)
        // What lies in the device's last page is left to the general way.
        guard sectors > 0, sector < pageCapacity else { return false }
        let alignment = UInt64(segment.first_sect) | UInt64(sectors) | sector
        guard alignment & pageMask == 0 else { return false }
        // Who has to wait for sectors does so in the general way.
        if writes != 0, !claimPage(index, sector, sectors) { return false }
        let entry = unsafe page(index)
        unsafe entry.pointee.key = now << 1 | UInt64(writes)
        unsafe entry.pointee.bytes = sectors &* 512
        if writes != 0 {
            if inbound.isFull { copyInbound() }
            unsafe inbound.append(segment, local: data(index), of: index, domain, .fromGuest)
        } else if isNull {
            completePage(index, Int32(bitPattern: sectors &* 512))
        } else {
            queuePage(.read, index, sector, sectors &* 512)
        }
        return true
    }

    /// Goes on with a page request whose operation has ended.
    @inline(__always) mutating func completePage(_ index: UInt16, _ result: Int32) {
        let entry = unsafe page(index)
        let (key, bytes) = unsafe (entry.pointee.key, entry.pointee.bytes)
        guard result == Int32(bitPattern: bytes) else { return completeGeneral(index, result) }
        if key & 1 == 0 {
            if outbound.isFull { copyOutbound() }
            let segment = unsafe Self.segments(in: inFlight.request(index)).pointee
            unsafe outbound.append(segment, local: data(index), of: index, domain, .toGuest)
        }
        endPage(index, key, bytes, .okay)
    }

    /// Answers a page request. The answer of a read stands if its data can be copied (`correctPage`).
    @inline(__always)
    private mutating func endPage(_ index: UInt16, _ key: UInt64, _ bytes: UInt32, _ status: BlockStatus) {
        if key != recent.key { startRecent(key) }
        recent.requests &+= 1
        recent.bytes &+= UInt64(bytes)
        answer(index, operation: UInt8(truncatingIfNeeded: key & 1), status: status)
    }

    /// Answers a page request with an error.
    mutating func failPage(_ index: UInt16) {
        let entry = unsafe page(index).pointee
        counters.add(CellLayout.errors(entry.writes ? .write : .read), 1)
        endPage(index, entry.key, entry.bytes, .error)
    }

    /// Makes the answer of a read, whose data the guest's page did not take, an error, before it is published.
    @inline(never) mutating func correctPage(_ index: UInt16) {
        let number = inFlight.responseNumber(index)
        counters.add(CellLayout.errors(.read), 1)
        inFlight.correct(index, status: BlockStatus.error.rawValue)
        unsafe abi.putResponse(
            into: ring.slot(number), identifier: BlockRequest.identifier(inFlight.request(index)),
            operation: BlockOperation.read.rawValue, status: .error)
    }

    /// Writes a page whose data has arrived from the guest.
    mutating func writePage(_ index: UInt16) {
        let entry = unsafe page(index).pointee
        if isNull { return completePage(index, Int32(bitPattern: entry.bytes)) }
        let sector = unsafe inFlight.request(index).load(fromByteOffset: 16, as: UInt64.self)
        queuePage(.write, index, sector, entry.bytes)
    }

    /// Puts a page's operation into the table for the next submission.
    @inline(__always)
    private mutating func queuePage(_ kind: OperationKind, _ index: UInt16, _ sector: UInt64, _ bytes: UInt32) {
        // Every page request and every part has at most one operation, so the table has room.
        unsafe operations.element(operationCount).pointee = unsafe IOOperation(
            kind, buffer: data(index), slab: slabTags.element(Int(BufferPool.slab(of: index))).pointee,
            offset: sector &* Sector.size, length: bytes, tag: UInt32(index))
        operationCount &+= 1
    }

    /// Goes on in the general way after anything but success, as a request with one part. There is a part for it:
    /// general requests leave one for every entry.
    @inline(never) private mutating func completeGeneral(_ index: UInt16, _ result: Int32) {
        guard let part = freeParts.pop() else { return failPage(index) }
        let entry = unsafe page(index).pointee
        let request = unsafe inFlight.request(index)
        let operation: BlockOperation = entry.writes ? .write : .read
        // `takePage` has judged: the segment lies in the private copy, the sector fits.
        slots[Int(index)] = unsafe Slot(
            segments: Self.segments(in: request), started: entry.key >> 1, sectors: entry.bytes / 512,
            nextSegment: 1, segmentCount: 1, parts: 1, operation: operation)
        parts[Int(part)] = unsafe Part(
            buffer: pool.address(index), offset: request.load(fromByteOffset: 16, as: UInt64.self) &* Sector.size,
            length: entry.bytes, slot: index, segmentCount: 1, block: index, order: Part.ownPage,
            stage: entry.writes ? .write : .read)
        completeOther(part, result)
    }

    /// The page of buffer memory that a page request's data passes through. The null volume keeps nothing, so all of
    /// its requests share the first page: what is measured on it is the ring, not how much cache the data takes.
    @inline(__always) private func data(_ index: UInt16) -> UnsafeMutableRawPointer {
        unsafe pool.address(isNull ? 0 : index)
    }

    @inline(__always) private func page(_ index: UInt16) -> UnsafeMutablePointer<PageRequest> {
        // The only segment ends at 32 (blkif.h), and nobody looks at what is behind it.
        unsafe (inFlight.request(index) + 32).assumingMemoryBound(to: PageRequest.self)
    }

    /// Segments of a plain request lie in the private copy, at offset 24 of the native layout.
    @inline(__always)
    static func segments(in request: UnsafeMutableRawPointer) -> UnsafePointer<blkif_segment_wire> {
        unsafe UnsafePointer((request + 24).assumingMemoryBound(to: blkif_segment_wire.self))
    }
}

/// Who owns an operation or a copied segment, in 16 bits: a page request by its index, or one of these.
enum Owner {
    /// A part of a general request.
    @inline(__always) static var part: UInt16 { 1 << 15 }
    /// A request's segment table.
    @inline(__always) static var table: UInt16 { 1 << 14 }
    /// The index without the mark.
    @inline(__always) static func index(_ owner: UInt16) -> UInt16 { owner & (1 << 14 - 1) }
}
