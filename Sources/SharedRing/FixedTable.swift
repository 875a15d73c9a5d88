/// A table of plain values whose size is fixed when it is made: what a queue uses instead of arrays, because it costs no
/// reference counting and no uniqueness check per access. Indices are checked.
@safe public struct FixedTable<Element: BitwiseCopyable>: ~Copyable {
    @usableFromInline let base: UnsafeMutablePointer<Element>
    /// Elements in the table.
    public let count: Int

    /// A table of `count` copies of `element`.
    public init(repeating element: Element, count: Int) {
        unsafe base = UnsafeMutablePointer<Element>.allocate(capacity: count)
        unsafe base.initialize(repeating: element, count: count)
        self.count = count
    }

    deinit { unsafe base.deallocate() }

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

    /// The elements' memory, for calls that take a C array; at most `count` elements, as long as the table lives.
    @inlinable public var pointer: UnsafeMutablePointer<Element> { unsafe base }
}

/// A last-in first-out list of table indices: hot entries are used again first.
public struct IndexStack: ~Copyable {
    @usableFromInline let indices: FixedTable<UInt16>
    /// Indices on the stack.
    @usableFromInline var depth: Int

    /// An empty stack with room for `capacity` indices.
    public init(capacity: Int) {
        indices = FixedTable(repeating: 0, count: capacity)
        depth = 0
    }

    /// A stack that holds 0..<`count`, 0 on top.
    public init(filledWith count: UInt16) {
        indices = FixedTable(repeating: 0, count: Int(count))
        depth = Int(count)
        for index in 0..<Int(count) { indices[index] = count &- 1 &- UInt16(index) }
    }

    /// Indices on the stack.
    @inlinable public var count: Int { @_noLocks get { depth } }

    /// Puts an index on top. The stack never holds more than its capacity: every index is on it at most once.
    @inlinable @_noLocks public mutating func push(_ index: UInt16) {
        indices[depth] = index
        depth &+= 1
    }

    /// Takes the index on top, or nil if there is none.
    @inlinable @_noLocks public mutating func pop() -> UInt16? {
        guard depth > 0 else { return nil }
        depth &-= 1
        return indices[depth]
    }
}
