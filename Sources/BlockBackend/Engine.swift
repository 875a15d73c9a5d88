public import Descriptors
public import Uring

extension Volume {
    /// An engine for one queue on this volume, to be made on the queue's thread; the volume must outlive it.
    ///
    /// - Parameters:
    ///   - choice: what `EngineChoice` found; it does not count for `null`.
    ///   - capacity: operations in flight at once.
    public func makeEngine(_ choice: EngineChoice, capacity: Int) throws(Fault) -> any Engine {
        switch (kind, choice.kind) {
        case (.null, _): NullEngine(capacity: capacity)
        case (_, .libaio): try AioEngine(file: descriptor, capacity: capacity)
        case (_, .uring), (_, .auto): try UringEngine(file: descriptor, capacity: capacity)
        }
    }
}
