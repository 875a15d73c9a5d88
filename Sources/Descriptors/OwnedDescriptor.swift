internal import Glibc

/// A file descriptor with one owner, closed when the owner goes.
public struct OwnedDescriptor: ~Copyable, Sendable {
    /// The descriptor's number, valid as long as this value lives.
    public let number: Int32

    /// Takes over an open descriptor.
    public init(owning number: Int32) {
        self.number = number
    }

    /// Takes over the result of a call that returns a descriptor or a negative errno.
    public init(_ result: Int32, _ operation: @autoclosure () -> String) throws(Fault) {
        guard result >= 0 else { throw Fault(operation(), errno: -result) }
        number = result
    }

    /// Gives the descriptor away without closing it.
    public consuming func release() -> Int32 {
        let number = number
        discard self
        return number
    }

    deinit {
        close(number)
    }
}
