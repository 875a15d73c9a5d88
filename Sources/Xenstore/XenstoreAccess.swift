/// A change to one node.
public enum XenstoreEdit: Equatable, Sendable {
    case write(XenstorePath, String)
    /// With all below it; nothing happens if there is none.
    case remove(XenstorePath)
}

/// Operations on nodes, the same inside and outside a transaction.
///
/// A missing node is nil, not an error.
public protocol XenstoreAccess: AnyObject {
    func readAll(_ paths: [XenstorePath]) throws(XenstoreError) -> [XenstoreValue?]
    func write(_ path: XenstorePath, bytes: [UInt8]) throws(XenstoreError)
    /// Makes several changes with one wait for the server, in their order; the first refusal is thrown.
    func apply(_ edits: [XenstoreEdit]) throws(XenstoreError)
    /// Creates a node with an empty value, and its parents; nothing happens if it exists.
    func makeDirectory(_ path: XenstorePath) throws(XenstoreError)
    /// Removes a node and all below it; nothing happens if there is none.
    func remove(_ path: XenstorePath) throws(XenstoreError)
    /// The names of the children, in no order; nil if the node is missing.
    func directory(_ path: XenstorePath) throws(XenstoreError) -> [String]?
    func permissions(of path: XenstorePath) throws(XenstoreError) -> XenstorePermissions?
    func setPermissions(_ permissions: XenstorePermissions, of path: XenstorePath) throws(XenstoreError)
}

extension XenstoreAccess {
    public func read(_ path: XenstorePath) throws(XenstoreError) -> XenstoreValue? {
        try readAll([path]).first ?? nil
    }

    public func write(_ path: XenstorePath, _ value: String) throws(XenstoreError) {
        try write(path, bytes: Array(value.utf8))
    }
}

/// Anything that can carry requests to a server, alone or in a transaction.
protocol RequestCarrier: XenstoreAccess {
    /// Sends all requests, pipelined, and returns the answers in the requests' order.
    func carry(_ requests: [XenstoreRequest]) throws(XenstoreError) -> [Reply]
}

/// The server's answer to one request.
enum Reply {
    case done([UInt8])
    case refused(XenstoreErrorName)
}

extension RequestCarrier {
    /// One request's result; the server's refusal is thrown.
    func carry(_ request: XenstoreRequest) throws(XenstoreError) -> [UInt8] {
        switch try carry([request]).first {
        case .done(let payload): return payload
        case .refused(let name): throw .refused(name, request.description)
        case nil: throw .protocolViolation("no answer to \(request.description)")
        }
    }

    /// One request's result; nil if the node is missing.
    func carryIfPresent(_ request: XenstoreRequest) throws(XenstoreError) -> [UInt8]? {
        do throws(XenstoreError) {
            return try carry(request)
        } catch {
            if error.name == .noEntry { return nil }
            throw error
        }
    }
}

extension RequestCarrier {
    public func readAll(_ paths: [XenstorePath]) throws(XenstoreError) -> [XenstoreValue?] {
        var requests: [XenstoreRequest] = []
        for path in paths { requests.append(try .read(path)) }
        var values: [XenstoreValue?] = []
        for (request, reply) in zip(requests, try carry(requests)) {
            switch reply {
            case .done(let payload): values.append(XenstoreValue(payload))
            case .refused(.noEntry): values.append(nil)
            case .refused(let name): throw .refused(name, request.description)
            }
        }
        return values
    }

    public func write(_ path: XenstorePath, bytes: [UInt8]) throws(XenstoreError) {
        _ = try carry(.write(path, bytes))
    }

    public func apply(_ edits: [XenstoreEdit]) throws(XenstoreError) {
        var requests: [XenstoreRequest] = []
        for edit in edits {
            switch edit {
            case .write(let path, let value): requests.append(try .write(path, Array(value.utf8)))
            case .remove(let path): requests.append(try .remove(path))
            }
        }
        for (request, reply) in zip(requests, try carry(requests)) {
            guard case .refused(let name) = reply else { continue }
            if request.operation == .remove, name == .noEntry { continue }
            throw .refused(name, request.description)
        }
    }

    public func makeDirectory(_ path: XenstorePath) throws(XenstoreError) {
        _ = try carry(.makeDirectory(path))
    }

    public func remove(_ path: XenstorePath) throws(XenstoreError) {
        _ = try carryIfPresent(.remove(path))
    }

    public func permissions(of path: XenstorePath) throws(XenstoreError) -> XenstorePermissions? {
        guard let payload = try carryIfPresent(.getPermissions(path)) else { return nil }
        guard let permissions = XenstorePermissions(payload: payload) else {
            throw .protocolViolation("permissions of \(path)")
        }
        return permissions
    }

    public func setPermissions(_ permissions: XenstorePermissions, of path: XenstorePath) throws(XenstoreError) {
        _ = try carry(.setPermissions(path, permissions))
    }
}
