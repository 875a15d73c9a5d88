public import CXen

/// The private copy of every request that was taken and not yet answered.
///
/// Responses overwrite the ring slots of requests that are still open, so the ring alone cannot tell what is in flight.
/// The table has the layout that a journal in shared memory needs, and its stores have the journal's order, so that it
/// can move there as it is: a header and, per entry, one commit word (`tag`), the response's number, and the request in
/// the native layout.
///
///     header, 128 bytes:  magic u64 | entries u32 | abi u8 | committed rsp_prod u32 @16 | consumed u64 @24
///     entry,  128 bytes:  tag u64 = sequence << 2 | state | response number u32 | status i16 | attempts u8 | pad u8 |
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

    @usableFromInline static var headerSize: Int { @_noLocks get { 128 } }
    @usableFromInline static var entrySize: Int { @_noLocks get { 128 } }
    static let magic: UInt64 = 0x4c4e_5246_4b4c_4258  // "XBLKFRNL"

    /// An empty table in anonymous memory.
    public init(entries: UInt16, abi: UInt8, startingAt index: UInt32 = 0) {
        let bytes = Self.headerSize + Int(entries) * Self.entrySize
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        unsafe base.storeBytes(of: Self.magic, as: UInt64.self)
        unsafe base.storeBytes(of: UInt32(entries), toByteOffset: 8, as: UInt32.self)
        unsafe base.storeBytes(of: abi, toByteOffset: 12, as: UInt8.self)
        unsafe base.storeBytes(of: index, toByteOffset: 16, as: UInt32.self)
        self.entries = Int(entries)
        free = FreeList(count: entries)
        nextSequence = UInt64(index)
    }

    deinit { unsafe base.deallocate() }

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
    @inlinable @inline(__always) public mutating func allocate() -> UInt16? { free.pop() }

    /// F2: the request is ours from here on.
    @inlinable @inline(__always) public mutating func markInFlight(_ index: UInt16) {
        unsafe xen_store_release64(entry(index), nextSequence << 2 | State.inFlight.rawValue)
        nextSequence &+= 1
    }

    /// F3: what was taken so far. A hint that F2 implies, so once per chunk is enough.
    @inlinable @inline(__always) public func noteConsumed() { unsafe xen_store_release64(base + 24, nextSequence) }

    /// P1: the request's answer is about to be written as response `number`.
    @inlinable @inline(__always) public mutating func markAnswered(
        _ index: UInt16, response number: UInt32, status: Int16
    ) {
        let entry = unsafe entry(index)
        let outcome = UInt64(number) | UInt64(UInt16(bitPattern: status)) << 32
        unsafe (entry + 8).storeBytes(of: outcome, as: UInt64.self)
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

    /// P4 and P5: responses up to `producer` are visible to the guest, the entries can be used again.
    @inlinable @inline(__always) public mutating func releaseAnswered(upTo producer: UInt32) {
        unsafe xen_store_release(base + 16, producer)
        while let index = free.reclaim() { unsafe xen_store_release64(entry(index), State.free.rawValue) }
    }
}
