import Foundation
import Synchronization
import Testing
import XenWire

@testable import Xenstore

/// The client against every server, over a real socket.
@Suite struct ClientTests {
    @Test(.enabled(if: ServerKind.real.count == 2, "scripts/fetch-xenstoreds provides both; oxenstored needs root"))
    func bothRealServersAreTested() {
        #expect(ServerKind.available == ServerKind.allCases)
    }

    @Test(arguments: ServerKind.available) func valuesAreAnyBytes(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let node = try path("/test/deep/node")
            #expect(try client.read(node) == nil)
            for bytes: [UInt8] in [[], [0], [0xFF, 0, 0xFE, 0], Array(repeating: 7, count: 2000), Array("text".utf8)] {
                try client.write(node, bytes: bytes)
                #expect(try client.read(node)?.bytes == bytes)
            }
            #expect(try client.read(path("/test/deep"))?.bytes == [])
        }
    }

    @Test(arguments: ServerKind.available) func removalTakesTheSubtree(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            try client.write(path("/test/a/b"), "1")
            try client.remove(path("/test/a"))
            #expect(try client.read(path("/test/a/b")) == nil)
            #expect(try client.directory(path("/test")) == [])
            // Neither a missing node nor a missing parent is an error.
            try client.remove(path("/test/a"))
            try client.remove(path("/no/such/node"))
        }
    }

    @Test(arguments: ServerKind.available) func directoriesAreListed(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            #expect(try client.directory(path("/test")) == nil)
            try client.makeDirectory(path("/test"))
            #expect(try client.directory(path("/test")) == [])
            try client.write(path("/test"), "kept")
            try client.makeDirectory(path("/test"))
            #expect(try client.read(path("/test"))?.text == "kept")
            try client.makeDirectory(path("/test/b"))
            try client.write(path("/test/a"), "")
            #expect(try client.directory(path("/test"))?.sorted() == ["a", "b"])
        }
    }

    @Test(arguments: ServerKind.available) func largeDirectoriesAreListed(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let names = (100..<600).map { "a-rather-long-name-\($0)" }
            for name in names { try client.makeDirectory(path("/test/\(name)")) }
            #expect(try client.directory(path("/test"))?.sorted() == names)
            let inTransaction = try client.transaction { (store) throws(XenstoreError) in
                try store.directory(XenstorePath("/test"))
            }
            #expect(inTransaction?.sorted() == names)
        }
    }

    @Test(arguments: ServerKind.available) func permissionsAreSetAndRead(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let node = try path("/test")
            #expect(try client.permissions(of: node) == nil)
            try client.makeDirectory(node)
            let permissions = XenstorePermissions(
                owner: DomainID(7), others: .none, grants: [.init(DomainID(3), .read), .init(DomainID(4), .both)])
            try client.setPermissions(permissions, of: node)
            #expect(try client.permissions(of: node) == permissions)
        }
    }

    @Test(arguments: ServerKind.available) func manyReadsArePipelined(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            for number in stride(from: 0, to: 200, by: 2) { try client.write(path("/test/\(number)"), "\(number)") }
            let values = try client.readAll((0..<200).map { try path("/test/\($0)") })
            #expect(values.map { $0?.text } == (0..<200).map { $0.isMultiple(of: 2) ? "\($0)" : nil })
            #expect(try client.readAll([]).isEmpty)
        }
    }

    @Test(arguments: ServerKind.available) func malformedRequestsAreNotSent(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let node = try path("/test")
            #expect(throws: XenstoreError.self) { try client.write(node, bytes: Array(repeating: 1, count: 4092)) }
            #expect(throws: XenstoreError.self) { try client.read(.releaseDomain) }
            #expect(client.isConnected)
            #expect(try client.read(node) == nil)
        }
    }

    @Test(arguments: ServerKind.available) func manyThreadsCount(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let counter = try path("/test/counter")
            try server.client().write(counter, "0")
            let socket = server.socket
            let failures = Mutex<[String]>([])
            let finished = DispatchGroup()
            for _ in 0..<4 {
                DispatchQueue.global().async(group: finished) {
                    do { try count(counter, times: 25, socket) } catch { failures.withLock { $0.append("\(error)") } }
                }
            }
            finished.wait()
            #expect(failures.withLock { $0 } == [])
            #expect(try server.client().read(counter)?.text == "100")
        }
    }
}

/// Increments a node in transactions.
private func count(_ counter: XenstorePath, times: Int, _ socket: String) throws {
    var configuration = XenstoreClient.Configuration()
    configuration.transactionAttempts = 1000
    configuration.deadlineMilliseconds = 60_000
    let client = try XenstoreClient(socket: socket, configuration: configuration)
    for _ in 0..<times {
        try client.transaction { (store) throws(XenstoreError) in
            let old = try store.read(counter)?.unsigned(atMost: 1000) ?? 0
            try store.write(counter, "\(old + 1)")
        }
    }
}

@Suite struct TransactionTests {
    @Test(arguments: ServerKind.available) func changesAppearTogether(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let (first, second) = (try path("/test/1"), try path("/test/2"))
            let seen = try client.transaction { (store) throws(XenstoreError) in
                try store.write(first, "1")
                try store.write(second, "2")
                #expect(try store.read(first)?.text == "1")
                return try other.readAll([first, second])
            }
            #expect(seen == [nil, nil])
            #expect(try other.readAll([first, second]).map { $0?.text } == ["1", "2"])
        }
    }

    @Test(arguments: ServerKind.available) func anAbortedTransactionChangesNothing(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let node = try path("/test/1")
            try client.transaction { (store) throws(XenstoreError) in
                try store.write(node, "1")
                store.abort()
            }
            #expect(try client.read(node) == nil)
            #expect(throws: XenstoreError.invalidArgument("no")) {
                try client.transaction { (store) throws(XenstoreError) in
                    try store.write(node, "1")
                    throw .invalidArgument("no")
                }
            }
            #expect(try client.read(node) == nil)
        }
    }

    @Test(arguments: ServerKind.available) func aConflictIsRepeated(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let node = try path("/test/1")
            try client.write(node, "0")
            var attempts = 0
            try client.transaction { (store) throws(XenstoreError) in
                attempts += 1
                let old = try store.read(node)?.text
                if attempts == 1 { try other.write(node, "theirs") }
                try store.write(node, "\(old ?? "")+ours")
            }
            #expect(attempts == 2)
            #expect(try client.read(node)?.text == "theirs+ours")
        }
    }

    @Test(arguments: ServerKind.available) func conflictsWithoutEndGiveUp(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let other = try server.client()
            let client = try server.client { $0.transactionAttempts = 3 }
            let node = try path("/test/1")
            var attempts = 0
            #expect(throws: XenstoreError.contention(attempts: 3)) {
                try client.transaction { (store) throws(XenstoreError) in
                    attempts += 1
                    _ = try store.read(node)
                    try other.write(node, "\(attempts)")
                    try store.write(node, "ours")
                }
            }
            #expect(attempts == 3)
        }
    }

    @Test(arguments: ServerKind.available) func aRefusalInsideIsNotRepeated(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let missing = try path("/test/missing")
            var attempts = 0
            let error = #expect(throws: XenstoreError.self) {
                try client.transaction { (store) throws(XenstoreError) in
                    attempts += 1
                    try store.setPermissions(XenstorePermissions(owner: DomainID(0)), of: missing)
                }
            }
            #expect(error?.name == .noEntry)
            #expect(attempts == 1)
        }
    }

    @Test(arguments: ServerKind.available) func aTransactionEndsWithItsBody(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let ended = try client.transaction { (store) throws(XenstoreError) in store }
            #expect(throws: XenstoreError.self) { try ended.read(.root) }
            #expect(client.isConnected)
        }
    }

    /// A transaction that the server does not know (it restarted, or dropped it) is ENOENT for one and EIO for the other.
    @Test(arguments: ServerKind.available) func aTransactionThatTheServerLostIsRepeated(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let node = try path("/test/1")
            var attempts = 0
            try client.transaction { (store) throws(XenstoreError) in
                attempts += 1
                if attempts == 1 { _ = try store.carry(.transactionEnd(commit: false)) }
                try store.write(node, "\(attempts)")
            }
            #expect(attempts == 2)
            #expect(try client.read(node)?.text == "2")
        }
    }
}

@Suite struct WatchTests {
    @Test(arguments: ServerKind.available) func aWatchFiresAtOnceAndOnEveryChange(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let watch = try client.watch(path("/test"))
            try client.expectEvents([watch])
            try other.write(path("/test/below/it"), "1")
            try client.expectEvents([watch])
            try client.write(path("/test"), "own")
            try client.expectEvents([watch])
            try other.write(path("/elsewhere"), "1")
            try client.settle()
            #expect(!client.hasPendingEvents)
        }
    }

    @Test(arguments: ServerKind.available) func eventsAreCoalesced(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let first = try client.watch(path("/test/1"))
            let second = try client.watch(path("/test/2"))
            try client.settle()
            _ = client.pendingEvents()
            for number in 0..<500 {
                try other.write(path("/test/2"), "\(number)")
                try other.write(path("/test/1"), "\(number)")
            }
            try client.settle()
            #expect(client.pendingEvents() == [second, first])
            #expect(client.pendingEvents() == [])
        }
    }

    @Test(arguments: ServerKind.available) func changesNameTheChildren(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let watch = try client.watch(path("/test"))
            try client.settle()
            #expect(client.pendingChanges() == [XenstoreChange(watch, children: nil)])
            for name in ["a", "a/deep/node", "b", "bb/c"] { try other.write(path("/test/\(name)"), "1") }
            try client.settle()
            #expect(client.pendingChanges() == [XenstoreChange(watch, children: ["a", "b", "bb"])])
            #expect(client.pendingChanges() == [])
            try other.write(path("/test/a"), "2")
            try other.write(path("/test"), "2")
            try other.write(path("/test/b"), "2")
            try client.settle()
            #expect(client.pendingChanges() == [XenstoreChange(watch, children: nil)], "the node itself")
            for number in 0..<200 { try other.write(path("/test/\(number)"), "1") }
            try client.settle()
            #expect(client.pendingChanges() == [XenstoreChange(watch, children: nil)], "more than are kept")
            try other.remove(path("/test"))
            try client.settle()
            #expect(client.pendingChanges() == [XenstoreChange(watch, children: nil)])
        }
    }

    @Test(arguments: ServerKind.available) func severalWatchesOfOneNodeAreToldApart(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let watches = [try client.watch(path("/test")), try client.watch(path("/test"))]
            try client.expectEvents(watches)
            try client.unwatch(watches[0])
            try client.write(path("/test"), "1")
            try client.expectEvents([watches[1]])
            try client.unwatch(watches[0])
        }
    }

    @Test(arguments: ServerKind.available) func anEndedWatchIsSilent(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let watch = try client.watch(path("/test"))
            try other.write(path("/test"), "1")
            try client.unwatch(watch)
            try other.write(path("/test"), "2")
            try client.settle()
            #expect(!client.hasPendingEvents)
        }
    }

    @Test(arguments: ServerKind.available) func removalOfAParentFires(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            try other.write(path("/test/a/b/c"), "1")
            let node = try client.watch(path("/test/a/b"))
            let parent = try client.watch(path("/test"))
            try client.settle()
            _ = client.pendingEvents()
            try other.remove(path("/test/a"))
            try client.expectEvents([node, parent])
            #expect(try client.read(path("/test/a/b/c")) == nil)
        }
    }

    @Test(arguments: ServerKind.available) func aCommittedTransactionFires(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let (first, second) = (try path("/test/1"), try path("/test/2"))
            let watches = [try client.watch(first), try client.watch(second)]
            try client.expectEvents(watches)
            try other.transaction { (store) throws(XenstoreError) in
                try store.write(first, "1")
                try store.write(second, "1")
                store.abort()
            }
            try client.settle()
            #expect(!client.hasPendingEvents)
            try other.transaction { (store) throws(XenstoreError) in
                try store.write(first, "1")
                try store.write(second, "1")
            }
            try client.expectEvents(watches)
        }
    }

    /// The descriptor is what a poll(2) loop sleeps on.
    @Test(arguments: ServerKind.available) func theDescriptorIsReadableWhenEventsArrive(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let watch = try client.watch(path("/test"))
            try client.expectEvents([watch])
            #expect(!client.waitReadable(0))
            try other.write(path("/test"), "1")
            #expect(client.waitReadable(60_000))
            try client.processReadable()
            #expect(client.pendingEvents() == [watch])
        }
    }

    @Test(arguments: ServerKind.available) func aLostConnectionIsReplacedWithItsWatches(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (client, other) = (try server.client(), try server.client())
            let watches = [try client.watch(path("/test/1")), try client.watch(path("/test/2"))]
            let ended = try client.watch(path("/test/3"))
            try client.unwatch(ended)
            try client.expectEvents(watches)
            shutdown(client.descriptor, Int32(SHUT_RDWR))
            #expect(throws: XenstoreError.self) { try client.read(.root) }
            #expect(!client.isConnected && client.descriptor == -1)
            #expect(throws: XenstoreError.self) { try client.processReadable() }
            #expect(throws: XenstoreError.self) { try client.watch(path("/test/4")) }
            try client.reconnect()
            #expect(client.pendingEvents() == watches)
            try client.settle()
            _ = client.pendingEvents()
            try other.write(path("/test/2"), "1")
            try client.expectEvents([watches[1]])
        }
    }
}
