/// A table of plain values whose size is fixed when it is made: what a queue uses instead of arrays, because it costs no
/// reference counting and no uniqueness check per access. Indices are checked.
@safe public struct FixedTable<Element: BitwiseCopyable>: ~Copyable {
    @usableFromInline let base: UnsafeMutablePointer<Element>
    /// Elements in the table.
    public let count: Int
    /// The elements' memory goes with the table.
    private let ownsMemory: Bool

    /// A table of `count` copies of `element`.
    public init(repeating element: Element, count: Int) {
        unsafe base = UnsafeMutablePointer<Element>.allocate(capacity: count)
        unsafe base.initialize(repeating: element, count: count)
        self.count = count
        ownsMemory = true
    }

    /// A table of what lies in memory that outlives it, and holds `count` elements.
    @unsafe public init(in memory: UnsafeMutableRawPointer, count: Int) {
        unsafe base = memory.bindMemory(to: Element.self, capacity: count)
        self.count = count
        ownsMemory = false
    }

    deinit { if ownsMemory { unsafe base.deallocate() } }

    /// The element at `index`, in place.
    @inlinable public subscript(index: Int) -> Element {
        unsafeAddress {
            precondition(index >= 0 && index < count)
            return unsafe UnsafePointer(base + index)  // checked above
        }
        nonmutating unsafeMutableAddress {
            precondition(index >= 0 && index < count)
            return unsafe base + index  // checked above
        }
    }

    /// Where the element at `index` lies, checked in debug builds only: for indices that the caller's own tables made.
    /// Valid as long as the table lives.
    @unsafe @inlinable @inline(__always) public func element(_ index: Int) -> UnsafeMutablePointer<Element> {
        assert(index >= 0 && index < count)
        return unsafe base + index
    }

    /// The elements' memory, for calls that take a C array; at most `count` elements, as long as the table lives.
    @inlinable public var pointer: UnsafeMutablePointer<Element> { unsafe base }
}

/// The free indices of a table, last used first: hot entries are used again first.
///
/// Indices come back in two steps, `retire` and `reclaim`, because an entry may be used again only after what it stood
/// for has been published.
public struct FreeList: ~Copyable {
    @usableFromInline let indices: FixedTable<UInt16>
    /// Free indices, from the table's start; retired ones lie at its end.
    @usableFromInline var depth: Int
    @usableFromInline var retiredCount = 0

    /// `first`..<`first + count`, the lowest on top.
    public init(first: UInt16 = 0, count: UInt16) {
        indices = FixedTable(repeating: 0, count: Int(count))
        depth = Int(count)
        for index in 0..<Int(count) { indices[index] = first &+ count &- 1 &- UInt16(index) }
    }

    /// The indices of a table that are free, the first on top; the others may be given back.
    init(listing free: [UInt16], of capacity: Int) {
        indices = FixedTable(repeating: 0, count: capacity)
        depth = free.count
        for (place, index) in free.reversed().enumerated() { indices[place] = index }
    }

    /// Free indices.
    @inlinable public var count: Int { @_noLocks get { depth } }
    /// Indices that were retired and not reclaimed.
    @inlinable public var retired: Int { @_noLocks get { retiredCount } }

    /// Takes the index on top, or nil if there is none.
    @inlinable @inline(__always) public mutating func pop() -> UInt16? {
        guard depth > 0 else { return nil }
        depth &-= 1
        return unsafe indices.element(depth).pointee  // 0 <= depth < count
    }

    /// Gives an index back, to be free after `reclaim`. Every index is on the list at most once, so there is room.
    @inlinable @inline(__always) public mutating func retire(_ index: UInt16) {
        retiredCount &+= 1
        unsafe indices.element(indices.count &- retiredCount).pointee = index
    }

    /// Makes one retired index free and returns it, or nil if there is none.
    @inlinable @inline(__always) public mutating func reclaim() -> UInt16? {
        guard retiredCount > 0 else { return nil }
        let index = unsafe indices.element(indices.count &- retiredCount).pointee
        retiredCount &-= 1
        push(index)
        return index
    }

    /// Gives an index back at once.
    @inlinable @inline(__always) public mutating func push(_ index: UInt16) {
        unsafe indices.element(depth).pointee = index
        depth &+= 1
    }
}
