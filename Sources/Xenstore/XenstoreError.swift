public import Descriptors

/// What a xenstore server may answer instead of a result: a string on the wire, not a number (xen/io/xs_wire.h,
/// xsd_errors).
public enum XenstoreErrorName: String, Error, Sendable, CaseIterable {
    case invalid = "EINVAL"
    case accessDenied = "EACCES"
    case exists = "EEXIST"
    case isDirectory = "EISDIR"
    case noEntry = "ENOENT"
    case outOfMemory = "ENOMEM"
    case noSpace = "ENOSPC"
    case inputOutput = "EIO"
    case notEmpty = "ENOTEMPTY"
    case notImplemented = "ENOSYS"
    case readOnly = "EROFS"
    case busy = "EBUSY"
    case again = "EAGAIN"
    case isConnected = "EISCONN"
    case tooBig = "E2BIG"
    case notPermitted = "EPERM"

    /// The name in an error frame's payload; one that nobody knows counts as EINVAL, as in libxenstore.
    init(payload: [UInt8]) {
        let text = payload.last == 0 ? payload.dropLast() : payload[...]
        self = XenstoreErrorName(rawValue: String(decoding: text, as: UTF8.self)) ?? .invalid
    }
}

/// Why an operation on xenstore did not succeed.
public enum XenstoreError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The server answered with an error.
    case refused(XenstoreErrorName, String)
    /// The request was not sent: it would have been malformed. Names the thing and the rule.
    case invalidArgument(String)
    /// There is no connection (any more); `XenstoreClient.reconnect` makes a new one.
    case connectionLost(Fault)
    /// The server broke the wire protocol; the connection was closed.
    case protocolViolation(String)
    /// No answer in time; the connection was closed, because what the server will make of the request is unknown.
    case deadlinePassed(String)
    /// A transaction met a conflicting one at every attempt.
    case contention(attempts: Int)

    public var description: String {
        switch self {
        case .refused(let name, let request): "xenstore: \(request): \(name.rawValue)"
        case .invalidArgument(let rule): "xenstore: \(rule)"
        case .connectionLost(let fault): "xenstore: connection lost: \(fault)"
        case .protocolViolation(let what): "xenstore: protocol violated: \(what)"
        case .deadlinePassed(let request): "xenstore: \(request): no answer in time"
        case .contention(let attempts): "xenstore: transaction gave up after \(attempts) conflicts"
        }
    }

    /// The server's answer, if it is one.
    public var name: XenstoreErrorName? {
        if case .refused(let name, _) = self { name } else { nil }
    }
}
