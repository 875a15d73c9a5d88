internal import CXen
internal import Glibc

/// Copies of the requests that are being answered, on a ring whose requests are answered in their order.
///
/// Each response overwrites the request that it answers. Between the first of a batch and the store of `rsp_prod` the ring
/// alone does not know any more what the guest has asked for; whoever finds it then puts the requests back (`restore`).
///
///     0    tag u64 = index of the first request << 32 | how many, stored behind the copies and before the first response
///     64   the copies, in their order
///
/// Before the tag is stored the ring is whole; when `rsp_prod` has moved on, the tag's index is not where the ring is.
@safe public struct AnswerRecord: ~Copyable {
    private let base: UnsafeMutableRawPointer
    private let slots: Int
    private let slotSize: Int
    /// Where the record lies; nil: in memory of its own.
    private let journal: Journal?

    private static let headerSize = 64

    /// Bytes of a record.
    public static func bytes(slots: Int, of slotSize: Int) -> Int { headerSize + slots * slotSize }

    /// The record that lies in a journal, as it is: in a new one it is empty.
    ///
    /// - Parameters:
    ///   - journal: nil: memory that goes with the process.
    ///   - offset: in the journal's body, which has room for it; a multiple of 64.
    public init(slots: Int, of slotSize: Int, in journal: Journal? = nil, at offset: Int = 0) {
        let bytes = Self.bytes(slots: slots, of: slotSize)
        let body = unsafe journal.flatMap { unsafe $0.body.count >= offset + bytes ? $0.body.baseAddress : nil }
        if let body = unsafe body {
            unsafe base = body + offset
            self.journal = journal
        } else {
            unsafe base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
            unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
            self.journal = nil
        }
        self.slots = slots
        self.slotSize = slotSize
    }

    deinit { if journal == nil { unsafe base.deallocate() } }

    /// Where the copies lie; valid as long as the record lives.
    public var copies: UnsafeMutableRawPointer { unsafe base + Self.headerSize }

    /// The copies of `count` requests from `index` on are there: responses may be written from now on.
    @_noLocks public mutating func note(_ index: UInt32, _ count: UInt32) {
        unsafe xen_store_release64(base, UInt64(index) << 32 | UInt64(count))
        xen_store_order()
    }

    /// Puts the requests back whose responses were not published, if there are any, into the slots of a ring that was just
    /// taken over. It can be done again and again.
    ///
    /// What the record and the guest say is not believed: no more is written than the ring's own waiting slots.
    public mutating func restore(to ring: borrowing BackRing) {
        let tag = unsafe xen_load_acquire64(base)
        let (first, count) = (UInt32(truncatingIfNeeded: tag >> 32), UInt32(truncatingIfNeeded: tag))
        guard first == ring.produced, count <= slots, let waiting = ring.waiting() else { return }
        for number in 0..<min(count, waiting) {
            // One of the record's slots, and one of the ring's, which are as long.
            unsafe memcpy(ring.slot(first &+ number), copies + Int(number) * slotSize, slotSize)
        }
        xen_store_order()
    }
}
