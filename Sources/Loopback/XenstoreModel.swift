public import XenWire
public import Xenstore

/// One client's connection to the model's xenstore.
public struct XenstoreConnectionID: Hashable, Sendable {
    let number: UInt64
}

/// A frame for a client.
public struct XenstoreDelivery: Sendable {
    public let connection: XenstoreConnectionID
    public let frame: XenstoreFrame
}

/// The model's xenstore server, without sockets, threads or time: frames in, frames out.
///
/// It behaves as C xenstored 4.17 does where that and oxenstored differ.
public struct XenstoreModel: Sendable {
    private struct Connection: Sendable {
        let domain: DomainID
        var watches: [Watch] = []
        var transactions: [UInt32: XenstoreOpenTransaction] = [:]
    }

    private struct Watch: Sendable {
        let path: XenstorePath
        /// The path as the client wrote it is how events name nodes below it: without this prefix if it was relative.
        let relativeTo: String
        let token: [UInt8]

        /// Hears of its node and of all below it; of what vanished with a removed node only if that is its own node.
        func hears(of change: XenstoreTree.Change) -> Bool {
            change.isBelowRemoved ? path == change.path : path.contains(change.path)
        }
    }

    private let quota: XenstoreQuota
    private var tree: XenstoreTree
    private var connections: [XenstoreConnectionID: Connection] = [:]
    private var lastConnection: UInt64 = 0
    private var lastTransaction: UInt32 = 0
    private var outbox: [XenstoreDelivery] = []
    /// The domains that were introduced and not released; dom0 always is one.
    public private(set) var domains: Set<DomainID> = [.privileged]

    public init(quota: XenstoreQuota = XenstoreQuota()) {
        self.quota = quota
        tree = XenstoreTree(quota: quota)
    }

    /// A new connection of a domain.
    public mutating func connect(_ domain: DomainID) -> XenstoreConnectionID {
        lastConnection += 1
        let id = XenstoreConnectionID(number: lastConnection)
        connections[id] = Connection(domain: domain)
        return id
    }

    /// Ends a connection with its watches and transactions.
    public mutating func disconnect(_ connection: XenstoreConnectionID) {
        connections[connection] = nil
    }

    /// False once the connection's domain has been released.
    public func isConnected(_ connection: XenstoreConnectionID) -> Bool { connections[connection] != nil }

    /// Serves one request; the answer and all watch events that it caused, in the order of delivery.
    public mutating func handle(
        _ frame: XenstoreFrame, from connection: XenstoreConnectionID
    ) -> [XenstoreDelivery] {
        guard let client = connections[connection] else { return [] }
        let request = Request(frame: frame, connection: connection, domain: client.domain)
        do throws(XenstoreErrorName) {
            answer(request, with: try perform(request))
            if frame.operation == .watch { fireNewestWatch(of: connection) }
        } catch {
            answer(request, error)
        }
        return takeOutbox()
    }

    /// A domain's death: its nodes, watches, transactions and connections go, and `@releaseDomain` fires.
    public mutating func releaseDomain(_ domain: DomainID) -> [XenstoreDelivery] {
        _ = try? release(domain)
        return takeOutbox()
    }

    /// A domain that shut down or crashed, but still exists: `@releaseDomain` fires.
    public mutating func announceShutdown() -> [XenstoreDelivery] {
        fire(.releaseDomain)
        return takeOutbox()
    }

    private mutating func takeOutbox() -> [XenstoreDelivery] {
        defer { outbox = [] }
        return outbox
    }
}

// Requests.
extension XenstoreModel {
    private struct Request {
        let frame: XenstoreFrame
        let connection: XenstoreConnectionID
        let domain: DomainID
    }

    private static let done = Array("OK\0".utf8)

    private mutating func answer(_ request: Request, with payload: [UInt8]) {
        send(request, type: request.frame.type, payload)
    }

    private mutating func answer(_ request: Request, _ error: XenstoreErrorName) {
        send(request, type: XenstoreOperation.error.rawValue, Array(error.rawValue.utf8) + [0])
    }

    private mutating func send(_ request: Request, type: UInt32, _ payload: [UInt8]) {
        let frame = XenstoreFrame(
            type: type, request: request.frame.request, transaction: request.frame.transaction, payload: payload)
        outbox.append(XenstoreDelivery(connection: request.connection, frame: frame))
    }

    private mutating func perform(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        switch request.frame.operation {
        case .read, .directory, .directoryPart, .getPermissions: return try performRead(request)
        case .write, .makeDirectory, .remove, .setPermissions: return try performMutation(request)
        case .watch: return try addWatch(request)
        case .unwatch: return try removeWatch(request)
        case .resetWatches: return resetWatches(request)
        case .transactionStart: return try startTransaction(request)
        case .transactionEnd: return try endTransaction(request)
        case .getDomainPath, .isDomainIntroduced: return try describeDomain(request)
        case .introduce, .release, .resume, .setTarget: return try performDomain(request)
        case .control, .watchEvent, .error, nil: throw .notImplemented
        }
    }

    /// A request's NUL-terminated arguments.
    private func strings(_ request: Request, atLeast count: Int) throws(XenstoreErrorName) -> [ArraySlice<UInt8>] {
        guard let strings = request.frame.payload.nulTerminatedStrings, strings.count >= count else { throw .invalid }
        return strings
    }

    private func path(
        _ bytes: ArraySlice<UInt8>, of request: Request, allowsSpecial: Bool = false
    ) throws(XenstoreErrorName) -> XenstorePath {
        let text = String(decoding: bytes, as: UTF8.self)
        let isRelative = bytes.first != UInt8(ascii: "/") && bytes.first != UInt8(ascii: "@")
        let absolute = isRelative ? XenstoreModel.prefix(of: request.domain) + text : text
        guard !bytes.isEmpty, let path = try? XenstorePath(absolute), allowsSpecial || !path.isSpecial else {
            throw .invalid
        }
        return path
    }

    private static func prefix(of domain: DomainID) -> String { "/local/domain/\(domain)/" }
}

// Nodes.
extension XenstoreModel {
    private mutating func performRead(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let arguments = try strings(request, atLeast: 1)
        let path = try path(arguments[0], of: request, allowsSpecial: request.frame.operation == .getPermissions)
        let node = try readable(path, request)
        switch request.frame.operation {
        case .read: return node.value
        case .getPermissions: return node.permissions.payload
        case .directoryPart: return try directoryPart(node, arguments)
        default: return try directory(node)
        }
    }

    private mutating func readable(
        _ path: XenstorePath, _ request: Request
    ) throws(XenstoreErrorName) -> XenstoreTree.Node {
        let id = request.frame.transaction
        guard id != 0 else { return try tree.readable(path, by: request.domain) }
        guard let transaction = connections[request.connection]?.transactions[id] else { throw .noEntry }
        connections[request.connection]?.transactions[id]?.noteAccess(to: path)
        return try transaction.tree.readable(path, by: request.domain)
    }

    private func listing(_ node: XenstoreTree.Node) -> [UInt8] {
        node.children.flatMap { Array($0.utf8) + [0] }
    }

    private func directory(_ node: XenstoreTree.Node) throws(XenstoreErrorName) -> [UInt8] {
        let listing = listing(node)
        guard listing.count <= XenstoreFrame.maximumPayload else { throw .tooBig }
        return listing
    }

    private func directoryPart(
        _ node: XenstoreTree.Node, _ arguments: [ArraySlice<UInt8>]
    ) throws(XenstoreErrorName) -> [UInt8] {
        let listing = listing(node)
        guard arguments.count == 2,
            let offset = XenstoreValue(Array(arguments[1])).unsigned(atMost: UInt64(listing.count))
        else { throw .invalid }
        let generation = Array("\(node.generation)".utf8) + [0]
        // One byte is kept for the NUL that marks the end.
        let room = XenstoreFrame.maximumPayload - generation.count - 1
        let part = listing[Int(offset)...].prefix(room)
        let isWhole = part.endIndex == listing.endIndex
        // A part ends with a whole name.
        let names = isWhole ? part : part[...(part.lastIndex(of: 0) ?? part.startIndex)]
        return generation + names + (isWhole ? [0] : [])
    }

    private mutating func performMutation(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let mutation = try mutation(request)
        let id = request.frame.transaction
        if id == 0 {
            fire(try mutation.apply(to: &tree, by: request.domain))
        } else {
            // Taken out for the time of the change: a second reference would make it copy the whole tree.
            guard var transaction = connections[request.connection]?.transactions.removeValue(forKey: id) else {
                throw .noEntry
            }
            defer { connections[request.connection]?.transactions[id] = transaction }
            try transaction.apply(mutation, by: request.domain)
        }
        return XenstoreModel.done
    }

    private func mutation(_ request: Request) throws(XenstoreErrorName) -> XenstoreMutation {
        let payload = request.frame.payload
        guard let end = payload.firstIndex(of: 0) else { throw .invalid }
        let isPermissions = request.frame.operation == .setPermissions
        let path = try path(payload[..<end], of: request, allowsSpecial: isPermissions)
        let rest = Array(payload[(end + 1)...])
        switch request.frame.operation {
        case .write: return .write(path, rest)
        case .makeDirectory where rest.isEmpty: return .makeDirectory(path)
        case .remove where rest.isEmpty: return .remove(path)
        case .setPermissions:
            guard let permissions = XenstorePermissions(payload: rest) else { throw .invalid }
            return .setPermissions(path, permissions)
        default: throw .invalid
        }
    }
}

// Watches.
extension XenstoreModel {
    private mutating func addWatch(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let watch = try watch(request)
        guard let client = connections[request.connection] else { throw .invalid }
        if client.watches.contains(where: { $0.path == watch.path && $0.token == watch.token }) { throw .exists }
        let count = connections.values.filter { $0.domain == request.domain }.reduce(0) { $0 + $1.watches.count }
        if !request.domain.isPrivileged, count >= quota.watches { throw .tooBig }
        connections[request.connection]?.watches.append(watch)
        return XenstoreModel.done
    }

    private mutating func removeWatch(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let watch = try watch(request)
        guard
            let index = connections[request.connection]?.watches.firstIndex(where: {
                $0.path == watch.path && $0.token == watch.token
            })
        else { throw .noEntry }
        connections[request.connection]?.watches.remove(at: index)
        return XenstoreModel.done
    }

    private mutating func resetWatches(_ request: Request) -> [UInt8] {
        connections[request.connection]?.watches = []
        connections[request.connection]?.transactions = [:]
        return XenstoreModel.done
    }

    private func watch(_ request: Request) throws(XenstoreErrorName) -> Watch {
        let arguments = try strings(request, atLeast: 2)
        guard arguments.count == 2, let first = arguments[0].first else { throw .invalid }
        let path = try path(arguments[0], of: request, allowsSpecial: true)
        let isRelative = first != UInt8(ascii: "/") && first != UInt8(ascii: "@")
        return Watch(
            path: path, relativeTo: isRelative ? XenstoreModel.prefix(of: request.domain) : "",
            token: Array(arguments[1]))
    }

    private mutating func fire(_ changes: [XenstoreTree.Change]) {
        for change in changes {
            for (id, client) in connections.sorted(by: { $0.key.number < $1.key.number })
            where change.permissions.access(of: client.domain).allowsReading {
                for watch in client.watches where watch.hears(of: change) { event(id, watch, change.path) }
            }
        }
    }

    /// A new watch fires at once, after its answer, so that its owner needs no other first look.
    private mutating func fireNewestWatch(of connection: XenstoreConnectionID) {
        guard let watch = connections[connection]?.watches.last else { return }
        event(connection, watch, watch.path)
    }

    private mutating func fire(_ special: XenstorePath) {
        guard let permissions = tree.permissions(of: special) else { return }
        fire([XenstoreTree.Change(path: special, permissions: permissions, isBelowRemoved: false)])
    }

    private mutating func event(_ connection: XenstoreConnectionID, _ watch: Watch, _ path: XenstorePath) {
        let name = path.description.utf8.dropFirst(watch.relativeTo.utf8.count)
        let frame = XenstoreFrame(
            type: XenstoreOperation.watchEvent.rawValue, request: 0, transaction: 0,
            payload: Array(name) + [0] + watch.token + [0])
        outbox.append(XenstoreDelivery(connection: connection, frame: frame))
    }
}

// Transactions.
extension XenstoreModel {
    private mutating func startTransaction(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        guard request.frame.transaction == 0, let client = connections[request.connection] else { throw .busy }
        if !request.domain.isPrivileged, client.transactions.count >= quota.transactions { throw .noSpace }
        repeat { lastTransaction &+= 1 } while lastTransaction == 0 || client.transactions[lastTransaction] != nil
        connections[request.connection]?.transactions[lastTransaction] = XenstoreOpenTransaction(of: tree)
        return Array("\(lastTransaction)\0".utf8)
    }

    private mutating func endTransaction(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let payload = request.frame.payload
        guard payload == Array("T\0".utf8) || payload == Array("F\0".utf8) else { throw .invalid }
        let id = request.frame.transaction
        guard let transaction = connections[request.connection]?.transactions.removeValue(forKey: id) else {
            throw .noEntry
        }
        if payload.first == UInt8(ascii: "T") { fire(try transaction.commit(to: &tree, by: request.domain)) }
        return XenstoreModel.done
    }
}

// Domains.
extension XenstoreModel {
    private func describeDomain(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        let domain = try domain(strings(request, atLeast: 1)[0])
        if request.frame.operation == .getDomainPath { return Array("/local/domain/\(domain)\0".utf8) }
        return Array((domains.contains(domain) ? "T\0" : "F\0").utf8)
    }

    private mutating func performDomain(_ request: Request) throws(XenstoreErrorName) -> [UInt8] {
        guard request.domain.isPrivileged else { throw .accessDenied }
        let arguments = try strings(request, atLeast: 1)
        let domain = try domain(arguments[0])
        switch request.frame.operation {
        case .introduce:
            guard arguments.count == 3 else { throw .invalid }
            if domains.insert(domain).inserted { fire(.introduceDomain) }
        case .release: try release(domain)
        default: guard domains.contains(domain) else { throw .noEntry }
        }
        return XenstoreModel.done
    }

    private mutating func release(_ domain: DomainID) throws(XenstoreErrorName) {
        guard !domain.isPrivileged else { throw .invalid }
        guard domains.remove(domain) != nil else { throw .noEntry }
        connections = connections.filter { $0.value.domain != domain }
        for path in tree.owned(by: domain) { fire(tree.removeSubtree(path)) }
        fire(.releaseDomain)
    }

    private func domain(_ bytes: ArraySlice<UInt8>) throws(XenstoreErrorName) -> DomainID {
        guard let number = XenstoreValue(Array(bytes)).unsigned(atMost: UInt64(UInt16.max)) else { throw .invalid }
        return DomainID(UInt16(truncatingIfNeeded: number))
    }
}
