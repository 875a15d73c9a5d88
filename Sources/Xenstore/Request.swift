internal import XenWire

/// A request that is well formed: there is no other way to make one than the functions below.
///
/// A malformed frame can take the host's xenstored down, which cannot be restarted. So every argument is checked here,
/// before a byte is sent.
struct XenstoreRequest: Equatable, Sendable {
    let operation: XenstoreOperation
    let payload: [UInt8]
    /// For error messages: `READ /local/domain/0`.
    let description: String

    private init(_ operation: XenstoreOperation, _ payload: [UInt8], _ description: String) throws(XenstoreError) {
        guard payload.count <= XenstoreFrame.maximumPayload else {
            throw .invalidArgument("\(description): \(payload.count) bytes exceed \(XenstoreFrame.maximumPayload)")
        }
        self.operation = operation
        self.payload = payload
        self.description = description
    }

    func encoded(request: UInt32, transaction: UInt32) -> [UInt8] {
        XenstoreFrame(type: operation.rawValue, request: request, transaction: transaction, payload: payload).encoded
    }
}

// Nodes.
extension XenstoreRequest {
    static func read(_ path: XenstorePath) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.read, node(path) + [0], "READ \(path)")
    }

    /// The one request whose payload does not end with a NUL.
    static func write(_ path: XenstorePath, _ value: [UInt8]) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.write, node(path) + [0] + value, "WRITE \(path)")
    }

    static func makeDirectory(_ path: XenstorePath) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.makeDirectory, node(path) + [0], "MKDIR \(path)")
    }

    static func remove(_ path: XenstorePath) throws(XenstoreError) -> XenstoreRequest {
        guard path != .root else { throw .invalidArgument("the root cannot be removed") }
        return try XenstoreRequest(.remove, node(path) + [0], "RM \(path)")
    }

    static func directory(_ path: XenstorePath) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.directory, node(path) + [0], "DIRECTORY \(path)")
    }

    static func directoryPart(_ path: XenstorePath, offset: Int) throws(XenstoreError) -> XenstoreRequest {
        let payload = try node(path) + [0] + Array("\(offset)".utf8) + [0]
        return try XenstoreRequest(.directoryPart, payload, "DIRECTORY_PART \(path) \(offset)")
    }

    static func getPermissions(_ path: XenstorePath) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.getPermissions, bytes(path) + [0], "GET_PERMS \(path)")
    }

    static func setPermissions(
        _ path: XenstorePath, _ permissions: XenstorePermissions
    ) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.setPermissions, bytes(path) + [0] + permissions.payload, "SET_PERMS \(path)")
    }

    private static func node(_ path: XenstorePath) throws(XenstoreError) -> [UInt8] {
        guard !path.isSpecial else { throw .invalidArgument("'\(path)' is an event, not a node") }
        return bytes(path)
    }

    private static func bytes(_ path: XenstorePath) -> [UInt8] { Array(path.description.utf8) }
}

// Watches, transactions, domains.
extension XenstoreRequest {
    static func watch(_ path: XenstorePath, token: UInt64) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.watch, bytes(path) + [0] + decimal(token), "WATCH \(path)")
    }

    static func unwatch(_ path: XenstorePath, token: UInt64) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.unwatch, bytes(path) + [0] + decimal(token), "UNWATCH \(path)")
    }

    static func transactionStart() throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.transactionStart, [0], "TRANSACTION_START")
    }

    static func transactionEnd(commit: Bool) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.transactionEnd, [commit ? UInt8(ascii: "T") : UInt8(ascii: "F"), 0], "TRANSACTION_END")
    }

    static func introduce(_ domain: DomainID, frame: UInt64, port: EventPort) throws(XenstoreError) -> XenstoreRequest {
        let payload = decimal(domain.rawValue) + decimal(frame) + decimal(port.rawValue)
        return try XenstoreRequest(.introduce, payload, "INTRODUCE \(domain)")
    }

    static func release(_ domain: DomainID) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.release, decimal(domain.rawValue), "RELEASE \(domain)")
    }

    /// The one relative path: what is relative depends on who asks, and that is the question.
    static func ownDomain() throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.read, Array("domid".utf8) + [0], "READ domid")
    }

    static func isDomainIntroduced(_ domain: DomainID) throws(XenstoreError) -> XenstoreRequest {
        try XenstoreRequest(.isDomainIntroduced, decimal(domain.rawValue), "IS_DOMAIN_INTRODUCED \(domain)")
    }

    private static func decimal(_ number: some UnsignedInteger) -> [UInt8] { Array("\(number)".utf8) + [0] }
}
