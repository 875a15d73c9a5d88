public import CXen
internal import Glibc

/// The private copy of every request that was taken and not yet answered.
///
/// Responses overwrite the ring slots of requests that are still open, so the ring alone cannot tell what is in flight.
/// The table lies in a `Journal`, whose stores outlive the process, or in anonymous memory. Its stores have an order in
/// which it makes sense after any instruction; the steps F1-F3 and P1-P5 are those of Tests/Models/crash.pml.
///
///     header, 128 bytes:  magic u64 | entries u32 | abi u8 | committed rsp_prod u32 @16 | consumed u64 @24
///     entry,  128 bytes:  tag u64 = sequence << 2 | state | response number u32 | status i16 | issued u8 | pad u8 |
///                         request 112 bytes
@safe public struct InFlightTable: ~Copyable {
    /// What an entry's tag says of it.
    public enum State: UInt64, Sendable {
        case free = 0
        case inFlight = 1
        case answered = 2
    }

    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline var free: FreeList
    @usableFromInline var nextSequence: UInt64
    /// Entries in the table, as many as the ring has slots.
    public let entries: Int
    /// Where the table lies; nil: in memory of its own.
    private let journal: Journal?

    @usableFromInline static var headerSize: Int { @_noLocks get { 128 } }
    @usableFromInline static var entrySize: Int { @_noLocks get { 128 } }
    static let magic: UInt64 = 0x4c4e_5246_4b4c_4258  // "XBLKFRNL"

    /// Bytes of a table.
    public static func bytes(entries: Int) -> Int { headerSize + entries * entrySize }

    /// An empty table.
    ///
    /// - Parameter journal: a new one, whose body has the table's size; nil: anonymous memory.
    public init(entries: UInt16, abi: UInt8, startingAt index: UInt32 = 0, in journal: Journal? = nil) {
        let bytes = Self.bytes(entries: Int(entries))
        let body = unsafe journal.flatMap { unsafe $0.body.count >= bytes ? $0.body.baseAddress : nil }
        unsafe base = body ?? UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        self.journal = unsafe body == nil ? nil : journal
        self.entries = Int(entries)
        free = FreeList(count: entries)
        nextSequence = UInt64(index)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        unsafe base.storeBytes(of: UInt32(entries), toByteOffset: 8, as: UInt32.self)
        unsafe base.storeBytes(of: abi, toByteOffset: 12, as: UInt8.self)
        unsafe base.storeBytes(of: index, toByteOffset: 16, as: UInt32.self)
        unsafe base.storeBytes(of: nextSequence, toByteOffset: 24, as: UInt64.self)
        unsafe xen_store_release64(base, Self.magic)
    }

    /// The table that a process left in a journal which nobody else uses any more (R1-R5): what of it was answered is
    /// free, and everything else is in flight.
    ///
    /// - Parameter published: `rsp_prod` on the ring, read once.
    public init(recovering journal: Journal, entries: UInt16, abi: UInt8, published: UInt32) throws(JournalRefusal) {
        let body = unsafe journal.body
        guard body.count >= Self.bytes(entries: Int(entries)), let memory = body.baseAddress else {
            throw .contradicts("\(entries) entries in \(body.count) bytes")
        }
        let found = unsafe JournaledRing(memory, entries: entries, abi: abi)
        let recovered = try found.recover(published: published)
        unsafe base = memory
        self.journal = journal
        self.entries = Int(entries)
        free = FreeList(listing: recovered.free, of: Int(entries))
        nextSequence = recovered.consumed
    }

    /// No table was ever made in the journal: its process was killed first, and has taken nothing from the ring.
    public static func isMissing(in journal: Journal) -> Bool {
        // A body has room for more than a word, and is zeroes at first; the magic number is stored last.
        guard let base = unsafe journal.body.baseAddress else { return false }
        return unsafe xen_load_acquire64(base) == 0
    }

    /// Something in the journal may not be answered yet; an answer that was not released counts, too.
    public static func hasOpen(_ journal: Journal) -> Bool {
        let body = unsafe journal.body
        // Whole entries behind the table's header.
        return stride(from: headerSize, through: body.count - entrySize, by: entrySize).contains {
            unsafe body.loadUnaligned(fromByteOffset: $0, as: UInt64.self) & 3 != 0
        }
    }

    deinit { if journal == nil { unsafe base.deallocate() } }

    /// `req_cons`: the next request to take from the ring.
    public var consumed: UInt32 { UInt32(truncatingIfNeeded: nextSequence) }

    /// Entries in use, those included whose answer is not yet released.
    @inlinable public var inUse: Int { @_noLocks get { entries &- free.count } }

    @inlinable @inline(__always) func entry(_ index: UInt16) -> UnsafeMutableRawPointer {
        assert(Int(index) < entries)
        return unsafe base + Self.headerSize + Int(index) &* Self.entrySize
    }

    /// The request's 112 bytes. Valid as long as the table lives; private, so it may be looked at again and again.
    ///
    /// - Parameter index: one that `allocate` gave.
    @inlinable @inline(__always) public func request(_ index: UInt16) -> UnsafeMutableRawPointer {
        unsafe entry(index) + 16
    }

    /// F1: a free entry, into which the caller copies the request; nil when as many are open as the ring has slots.
    @inlinable @inline(__always) public mutating func allocate() -> UInt16? {
        free.pop()
    }

    /// F2: the request is ours from here on.
    @inlinable @inline(__always) public mutating func markInFlight(_ index: UInt16) {
        unsafe xen_store_release64(entry(index), nextSequence << 2 | State.inFlight.rawValue)
        nextSequence &+= 1
    }

    /// F3: what was taken so far. A hint that F2 implies, so once per chunk is enough.
    @inlinable @inline(__always) public func noteConsumed() { unsafe xen_store_release64(base + 24, nextSequence) }

    /// D1: the request is about to change the volume, and has claimed its sectors. A free entry never has the mark.
    @inlinable @inline(__always) public mutating func markIssued(_ index: UInt16, _ isIssued: Bool = true) {
        unsafe xen_store_relaxed8(entry(index) + 14, isIssued ? 1 : 0)
    }

    /// The request may have changed the volume, in this process or an earlier one.
    @inlinable @inline(__always) public mutating func isIssued(_ index: UInt16) -> Bool {
        unsafe (entry(index) + 14).load(as: UInt8.self) != 0
    }

    /// P1: the request's answer is about to be written as response `number`.
    @inlinable @inline(__always) public mutating func markAnswered(
        _ index: UInt16, response number: UInt32, status: Int16
    ) {
        let entry = unsafe entry(index)
        unsafe (entry + 8).storeBytes(of: number, as: UInt32.self)
        unsafe (entry + 12).storeBytes(of: status, as: Int16.self)
        // In flight (1) becomes answered (2) in one store; the sequence stays.
        unsafe xen_store_release64(entry, xen_load_relaxed64(entry) ^ 3)
        free.retire(index)
    }

    /// The number that `markAnswered` gave to an answer that is not yet released.
    public func responseNumber(_ index: UInt16) -> UInt32 { unsafe (entry(index) + 8).load(as: UInt32.self) }

    /// Changes the outcome of an answer that is not yet published.
    public func correct(_ index: UInt16, status: Int16) {
        unsafe (entry(index) + 12).storeBytes(of: status, as: Int16.self)
    }

    /// Answers written and not yet released.
    @inlinable public var answered: Int { @_noLocks get { free.retired } }

    /// P4: responses up to `producer` are visible to the guest.
    @inlinable @inline(__always) public mutating func noteCommitted(_ producer: UInt32) {
        unsafe xen_store_release(base + 16, producer)
    }

    /// P5: an entry whose answer is visible can be used again; nil when none is left.
    @inlinable @inline(__always) public mutating func releaseAnswered() -> UInt16? {
        guard let index = free.reclaim() else { return nil }
        unsafe xen_store_release64(entry(index), State.free.rawValue)
        return index
    }

    /// What is in flight after a recovery, in the order in which it is to be done again: first what may have changed the
    /// volume (none of it overlaps), then the rest, each in the guest's order (R7).
    public func backlog() -> [UInt16] {
        let open = (0..<UInt16(entries)).filter { index in unsafe xen_load_relaxed64(entry(index)) & 3 != 0 }
        return open.sorted { left, right in
            let (first, second) = unsafe (
                (entry(left) + 14).load(as: UInt8.self), (entry(right) + 14).load(as: UInt8.self)
            )
            guard (first != 0) == (second != 0) else { return first != 0 }
            return unsafe xen_load_relaxed64(entry(left)) < xen_load_relaxed64(entry(right))
        }
    }
}
