public import CXen

/// Counters that one thread writes and any thread may read: plain memory, relaxed loads and stores, no lock and no
/// locked instruction.
@safe public final class Cells: @unchecked Sendable {
    // Written by one thread through `add`, read by others through `load`; 64-bit relaxed accesses do not tear.
    @usableFromInline let base: UnsafeMutablePointer<UInt64>
    /// How many.
    public let count: Int

    /// `count` cells of zero.
    public init(count: Int) {
        self.count = count
        unsafe base = UnsafeMutablePointer<UInt64>.allocate(capacity: count)
        unsafe base.initialize(repeating: 0, count: count)
    }

    deinit { unsafe base.deallocate() }

    /// The writer's view, a plain value without reference counting; valid as long as the cells live.
    public var writer: CellWriter { unsafe CellWriter(base: base, count: count) }

    /// A cell as it is now; 0 beyond the last.
    public func load(_ index: Int) -> UInt64 {
        guard index >= 0, index < count else { return 0 }
        return unsafe xen_load_relaxed64(base + index)  // checked above
    }
}

/// The single writer's view of `Cells`.
@safe public struct CellWriter {
    @usableFromInline let base: UnsafeMutablePointer<UInt64>
    @usableFromInline let count: Int

    @inlinable init(base: UnsafeMutablePointer<UInt64>, count: Int) {
        unsafe self.base = base
        self.count = count
    }

    /// Adds to one cell.
    @inlinable @_noLocks public func add(_ index: Int, _ amount: UInt64) {
        precondition(index >= 0 && index < count)
        unsafe xen_store_relaxed64(base + index, xen_load_relaxed64(base + index) &+ amount)  // checked above
    }

    /// Sets one cell.
    @inlinable @_noLocks public func set(_ index: Int, _ value: UInt64) {
        precondition(index >= 0 && index < count)
        unsafe xen_store_relaxed64(base + index, value)  // checked above
    }
}
