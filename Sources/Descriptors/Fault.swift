internal import Glibc

/// The host failed at something: an operation and its errno.
///
/// A fault is never the guest's doing; what a guest does wrong is a `Violation`.
public struct Fault: Error, Equatable, Sendable, CustomStringConvertible {
    /// What was attempted, with the thing it was attempted on: `open /dev/vg/disk`.
    public let operation: String
    /// The errno, positive.
    public let code: Int32

    /// A fault from a positive errno.
    public init(_ operation: String, errno code: Int32) {
        self.operation = operation
        self.code = code
    }

    /// `open /dev/vg/disk: No such file or directory`
    public var description: String {
        // strerror is not thread safe by POSIX, but glibc's returns constant strings for known codes (strerror(3)).
        guard let text = unsafe strerror(code) else { return "\(operation): errno \(code)" }
        return unsafe "\(operation): \(String(cString: text))"
    }
}
