public import SharedRing
internal import Synchronization

/// Time that passes only when the scheduler says so.
public final class ModelClock: Clock {
    private let nanoseconds = Atomic<UInt64>(1)

    /// Starts at one nanosecond.
    public init() {}

    public func now() -> UInt64 { nanoseconds.load(ordering: .relaxed) }

    /// Lets time pass.
    public func advance(by nanoseconds: UInt64) { self.nanoseconds.wrappingAdd(nanoseconds, ordering: .relaxed) }
}
