import Descriptors
import Glibc
import Loopback
import Testing
import XenWire

@testable import Xenstore

private let dom0 = DomainID(0)
private let guest = DomainID(7)
private let stranger = DomainID(8)

/// The model's own rules, without sockets.
@Suite struct ModelTests {
    let xenstore: InProcessXenstore
    let toolstack: XenstoreClient

    init() throws {
        xenstore = InProcessXenstore()
        toolstack = try xenstore.client(dom0)
        try toolstack.introduce(guest, frame: 1, port: EventPort(1))
        // As libxl does: the frontend's directory belongs to the guest, the backend may read it.
        try toolstack.makeDirectory(device)
        try toolstack.setPermissions(
            XenstorePermissions(owner: guest, grants: [.init(DomainID(3), .read)]), of: device)
    }

    private var device: XenstorePath { get throws { try path("/local/domain/7/device/vbd/51712") } }

    @Test func aDomainWritesOnlyItsOwn() throws {
        let client = try xenstore.client(guest)
        let node = try device.appending("state")
        try client.write(node, "1")
        #expect(try client.read(node)?.text == "1")
        #expect(try toolstack.read(node)?.text == "1")
        for forbidden in ["/test", "/local/domain/7/other", "/local/domain/0/backend"] {
            #expect(refusal { try client.write(path(forbidden), "1") } == .accessDenied)
        }
        #expect(refusal { try client.read(.root) } == .accessDenied)
        #expect(refusal { try client.read(path("/missing")) } == .accessDenied)
        #expect(try client.read(device.appending("missing")) == nil)
    }

    @Test func whatADomainCreatesBelongsToItAndInheritsTheRest() throws {
        let client = try xenstore.client(guest)
        let node = try device.appending("state")
        try client.write(node, "1")
        let permissions = XenstorePermissions(owner: guest, grants: [.init(DomainID(3), .read)])
        #expect(try client.permissions(of: node) == permissions)
        #expect(try xenstore.client(DomainID(3)).read(node)?.text == "1")
        #expect(refusal { try xenstore.client(DomainID(3)).write(node, "2") } == .accessDenied)
        #expect(refusal { try xenstore.client(stranger).read(node) } == .accessDenied)
    }

    @Test func onlyTheOwnerChangesPermissionsAndOnlyDom0TheOwner() throws {
        let client = try xenstore.client(guest)
        let node = try device
        try client.setPermissions(XenstorePermissions(owner: guest, grants: [.init(stranger, .both)]), of: node)
        let other = try xenstore.client(stranger)
        try other.write(node, "1")
        #expect(refusal { try other.setPermissions(XenstorePermissions(owner: stranger), of: node) } == .accessDenied)
        #expect(refusal { try client.setPermissions(XenstorePermissions(owner: dom0), of: node) } == .notPermitted)
        try toolstack.setPermissions(XenstorePermissions(owner: dom0), of: node)
        #expect(refusal { try client.read(node) } == .accessDenied)
    }

    /// XSA-115: a watch tells nothing about nodes that its owner may not read.
    @Test func watchesHearOnlyOfReadableNodes() throws {
        let client = try xenstore.client(stranger)
        let watch = try client.watch(.root)
        let released = try client.watch(.releaseDomain)
        try client.processReadable()
        #expect(client.pendingEvents() == [watch, released])
        try toolstack.write(device.appending("state"), "1")
        try toolstack.remove(device.appending("state"))
        xenstore.releaseDomain(guest)
        try client.processReadable()
        #expect(client.pendingEvents() == [])
    }

    @Test func nodesAreLimited() throws {
        let client = try xenstore.client(guest)
        let directory = try device
        let refused = refusal {
            for number in 0..<2000 { try client.makeDirectory(directory.appending("\(number)")) }
        }
        #expect(refused == .noSpace)
        // The device's directory was given to the guest, and counts.
        #expect(try client.directory(directory)?.count == 999)
        try client.remove(directory.appending("0"))
        try client.makeDirectory(directory.appending("again"))
        // dom0 is not limited, and neither is a transaction a way around it.
        try toolstack.makeDirectory(directory.appending("dom0"))
        let inTransaction = refusal {
            try client.transaction { (store) throws(XenstoreError) in
                try store.makeDirectory(directory.appending("more"))
            }
        }
        #expect(inTransaction == .noSpace)
    }

    @Test func valuesWatchesAndTransactionsAreLimited() throws {
        let client = try xenstore.client(guest)
        let node = try device
        try client.write(node, bytes: Array(repeating: 1, count: 2048))
        #expect(refusal { try client.write(node, bytes: Array(repeating: 1, count: 2049)) } == .noSpace)
        try toolstack.write(node, bytes: Array(repeating: 1, count: 2049))

        for _ in 0..<128 { _ = try client.watch(node) }
        #expect(refusal { _ = try client.watch(node) } == .tooBig)
        // The limit is the domain's, however many connections it has.
        #expect(refusal { _ = try xenstore.client(guest).watch(node) } == .tooBig)

        #expect(refusal { try nest(client, depth: 11) } == .noSpace)
        try nest(client, depth: 10)
    }

    @Test func privilegedOperationsAreForDom0() throws {
        let client = try xenstore.client(guest)
        #expect(refusal { try client.introduce(stranger, frame: 1, port: EventPort(1)) } == .accessDenied)
        #expect(refusal { try client.release(guest) } == .accessDenied)
        #expect(try client.isIntroduced(guest))
    }

    @Test func aDomainsDeathTakesAllItHad() throws {
        let client = try xenstore.client(guest)
        let released = try toolstack.watch(.releaseDomain)
        let node = try toolstack.watch(device.appending("state"))
        try client.write(device.appending("state"), "4")
        try toolstack.processReadable()
        _ = toolstack.pendingEvents()
        try toolstack.release(guest)
        #expect(Set(toolstack.pendingEvents()) == [released, node])
        #expect(try toolstack.read(device.appending("state")) == nil)
        #expect(try toolstack.directory(path("/local/domain/7/device/vbd")) == [])
        #expect(throws: XenstoreError.self) { try client.read(device) }
        #expect(refusal { try toolstack.release(guest) } == .noEntry)
    }

    @Test func aShutdownIsAnnounced() throws {
        let released = try toolstack.watch(.releaseDomain)
        try toolstack.processReadable()
        _ = toolstack.pendingEvents()
        xenstore.announceShutdown()
        try toolstack.processReadable()
        #expect(toolstack.pendingEvents() == [released])
        #expect(try toolstack.isIntroduced(guest))
    }

    @Test func aReadThatWentStaleIsAConflict() throws {
        let (state, other) = (try device.appending("state"), try device.appending("other"))
        let client = try xenstore.client(guest)
        try client.write(state, "1")
        var attempts = 0
        try toolstack.transaction { (store) throws(XenstoreError) in
            attempts += 1
            _ = try store.read(state)
            if attempts == 1 { try client.write(state, "2") }
            try store.write(other, "1")
        }
        #expect(attempts == 2)
        // So is a node that was missing and came to be, or the reverse.
        attempts = 0
        try toolstack.transaction { (store) throws(XenstoreError) in
            attempts += 1
            if try store.read(state) != nil { try client.remove(state) }
            try store.write(other, "2")
        }
        #expect(attempts == 2)
    }

    @Test func theSameRequestsHaveTheSameAnswers() throws {
        #expect(try randomHistory(seed: 5) == randomHistory(seed: 5))
        #expect(try randomHistory(seed: 5) != randomHistory(seed: 6))
    }

    @Test func randomFramesNeverTrap() throws {
        var model = XenstoreModel()
        let connections = [model.connect(dom0), model.connect(guest), model.connect(stranger)]
        var generator = SplitMix(seed: 7)
        for _ in 0..<20_000 {
            let connection = connections[Int.random(in: 0..<3, using: &generator)]
            let frame = randomRequest(&generator)
            let answers = model.handle(frame, from: connection).filter {
                $0.connection == connection && $0.frame.operation != .watchEvent
            }
            #expect(answers.count == 1 || !model.isConnected(connection))
            #expect(answers.allSatisfy { $0.frame.request == frame.request && $0.frame.payload.count <= 4096 })
        }
    }

    private func nest(_ client: XenstoreClient, depth: Int) throws(XenstoreError) {
        guard depth > 0 else { return }
        try client.transaction { (_) throws(XenstoreError) in try nest(client, depth: depth - 1) }
    }

    private func refusal<Value>(_ body: () throws -> Value) -> XenstoreErrorName? {
        do { _ = try body() } catch { return (error as? XenstoreError)?.name }
        return nil
    }

    private func randomHistory(seed: UInt64) throws -> [XenstoreFrame] {
        var model = XenstoreModel()
        let connections = [model.connect(dom0), model.connect(guest)]
        var generator = SplitMix(seed: seed)
        return (0..<2000).flatMap { _ in
            let connection = connections[Int.random(in: 0..<2, using: &generator)]
            return model.handle(randomRequest(&generator), from: connection).map(\.frame)
        }
    }
}

/// Frames that are often, but not always, well formed, about few enough nodes that they meet.
private func randomRequest(_ generator: inout SplitMix) -> XenstoreFrame {
    let pieces = ["/", "/a", "/a/b", "/a/c", "@releaseDomain", "a", "7", "8", "n0", "b7", "T", "F", "0", "//", ""]
    let text = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
        pieces[Int.random(in: 0..<pieces.count, using: &generator)]
            + (Int.random(in: 0..<8, using: &generator) == 0 ? "" : "\0")
    }
    // Most types are operations; transactions are few, so that some exist.
    return XenstoreFrame(
        type: .random(in: 0...24, using: &generator), request: .random(in: 0 ... .max, using: &generator),
        transaction: Bool.random(using: &generator) ? 0 : .random(in: 0...40, using: &generator),
        payload: Array(text.joined().utf8))
}

/// The model's sockets.
@Suite struct ModelServerTests {
    @Test func aDomainsSocketLivesAsLongAsTheDomain() throws {
        try withServer(.model) { server in
            let toolstack = try server.client()
            let socket = XenstoreServer.socketPath(in: server.directory, of: guest)
            #expect(throws: Fault.self) { try SocketTransport(path: socket) }
            try toolstack.introduce(guest, frame: 1, port: EventPort(1))
            try toolstack.settle()
            let client = try XenstoreClient(socket: socket)
            #expect(throws: XenstoreError.self) { try client.write(path("/test"), "1") }
            #expect(client.isConnected)
            try toolstack.release(guest)
            try toolstack.settle()
            #expect(throws: XenstoreError.self) { try client.isIntroduced(guest) }
            #expect(!client.isConnected)
            #expect(throws: Fault.self) { try SocketTransport(path: socket) }
        }
    }

    @Test func aHostileClientLosesItsOwnConnectionOnly() throws {
        try withServer(.model) { server in
            let client = try server.client()
            try client.write(path("/test"), "1")
            var generator = SplitMix(seed: 8)
            for _ in 0..<50 {
                let raw = try RawClient(server.socket)
                let bytes = (0..<200).map { _ in UInt8.random(in: 0...255, using: &generator) }
                // Bytes 12 to 15 are the first frame's length: make it impossible.
                try raw.send(bytes: bytes.prefix(15) + [0x80] + bytes.suffix(100))
                #expect(try raw.receive() == nil)
            }
            #expect(try client.read(path("/test"))?.text == "1")
        }
    }

    @Test func aClientThatNeverReadsIsDropped() throws {
        try withServer(.model) { server in
            let client = try server.client()
            try client.write(path("/test"), bytes: Array(repeating: 1, count: 4000))
            let deaf = try RawClient(server.socket)
            var isDropped = false
            for _ in 0..<4000 where !isDropped {
                do { try deaf.send(.read, "/test\0") } catch { isDropped = true }
            }
            #expect(isDropped)
            #expect(try client.read(path("/test"))?.bytes.count == 4000)
        }
    }

    @Test func stoppingEndsConnectionsAndRemovesSockets() throws {
        try withServer(.model) { server in
            let client = try server.client()
            server.stopModel()
            #expect(throws: XenstoreError.self) { try client.read(.root) }
            #expect(throws: XenstoreError.self) { try client.reconnect() }
            #expect(unsafe access(server.socket, F_OK) != 0)
        }
    }
}
