public import Descriptors
public import Uring

extension Volume {
    /// An engine for one queue on this volume, to be made on the queue's thread; the volume must outlive it.
    ///
    /// - Parameters:
    ///   - choice: what `EngineChoice` found; it does not count for `null`.
    ///   - capacity: operations in flight at once.
    public func makeEngine(_ choice: EngineChoice, capacity: Int) throws(Fault) -> any Engine {
        if kind == .null { return NullEngine(capacity: capacity) }
        guard isInMemory else { return try makeKernelEngine(choice, capacity: capacity) }
        // The kernel's engine only waits here.
        return InPlaceEngine(file: data, capacity: capacity, waiting: try makeKernelEngine(choice, capacity: 1))
    }

    private func makeKernelEngine(_ choice: EngineChoice, capacity: Int) throws(Fault) -> any Engine {
        switch choice.kind {
        case .libaio: try AioEngine(file: data, capacity: capacity)
        case .uring, .auto: try UringEngine(file: data, capacity: capacity)
        }
    }
}
