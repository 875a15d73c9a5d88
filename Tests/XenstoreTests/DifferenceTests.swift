import Testing
import XenWire

@testable import Xenstore

/// Where C xenstored and oxenstored (both 4.17) differ, seen without the client, and the model's choice. A server that
/// changes its mind makes these fail, and the client's assumptions want a look then.
@Suite struct DifferenceTests {
    @Test(arguments: ServerKind.available) func ownEventsComeBeforeOrAfterTheAnswer(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            #expect(try raw.ask(.watch, "/test\0token\0") == "OK")
            #expect(try raw.receive()?.text == "/test\0token")
            try raw.send(.write, "/test\0value")
            let types = [try raw.receive(), try raw.receive()].map { $0?.operation }
            #expect(types == (kind == .oxenstored ? [.write, .watchEvent] : [.watchEvent, .write]))
        }
    }

    @Test(arguments: ServerKind.available) func commitsReportEventsOncePerPathOrPerWrite(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            #expect(try raw.ask(.watch, "/test\0token\0") == "OK")
            #expect(try raw.receive()?.text == "/test\0token")
            let transaction = try raw.startTransaction()
            for value in ["1", "2"] {
                #expect(try raw.ask(.write, "/test\0\(value)", transaction: transaction) == "OK")
            }
            try raw.send(.transactionEnd, "T\0", transaction: transaction)
            var events = 0
            while let frame = try raw.receive(), frame.operation == .watchEvent { events += 1 }
            #expect(events == (kind == .oxenstored ? 2 : 1))
        }
    }

    @Test(arguments: ServerKind.available) func aWatchIsRegisteredOnce(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            #expect(try raw.ask(.watch, "/test\0token\0") == "OK")
            #expect(try raw.ask(.watch, "/test\0token\0") == "EEXIST")
            #expect(try raw.ask(.watch, "/test\0token\u{0}1\0") == "EINVAL")
            #expect(try raw.ask(.unwatch, "/test\0token\0") == "OK")
            #expect(try raw.ask(.unwatch, "/test\0token\0") == "ENOENT")
        }
    }

    @Test(arguments: ServerKind.available) func anEndedTransactionIsUnknown(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            let transaction = try raw.startTransaction()
            #expect(try raw.ask(.transactionEnd, "F\0", transaction: transaction) == "OK")
            let unknown = kind == .oxenstored ? "EIO" : "ENOENT"
            #expect(try raw.ask(.write, "/test\0value", transaction: transaction) == unknown)
            #expect(try raw.ask(.transactionEnd, "T\0", transaction: transaction) == unknown)
        }
    }

    @Test(arguments: ServerKind.available) func newSiblingsConflictOrMerge(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let (raw, other) = (try RawClient(server.socket), try RawClient(server.socket))
            #expect(try raw.ask(.makeDirectory, "/test\0") == "OK")
            let transaction = try raw.startTransaction()
            #expect(try raw.ask(.write, "/test/ours\0value", transaction: transaction) == "OK")
            #expect(try other.ask(.write, "/test/theirs\0value") == "OK")
            let outcome = try raw.ask(.transactionEnd, "T\0", transaction: transaction)
            #expect(outcome == (kind == .oxenstored ? "OK" : "EAGAIN"))
        }
    }

    @Test(arguments: ServerKind.available) func aLargeDirectoryIsRefusedOrTooLong(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            let names = (100..<600).map { "a-rather-long-name-\($0)" }
            for name in names { #expect(try raw.ask(.makeDirectory, "/test/\(name)\0") == "OK") }
            let whole = try #require(try raw.ask(.directory, "/test\0"))
            let part = try raw.ask(.directoryPart, "/test\u{0}0\0")
            if kind == .oxenstored {
                #expect(whole.utf8.count > 4096)
                #expect(part == "ENOSYS")
            } else {
                #expect(whole == "E2BIG")
                #expect(part?.contains("a-rather-long-name-100") == true)
            }
        }
    }

    @Test(arguments: ServerKind.available) func longValuesAreStoredOrRefused(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            let value = String(repeating: "x", count: 3000)
            #expect(try raw.ask(.write, "/test\0" + value) == (kind == .oxenstored ? "E2BIG" : "OK"))
        }
    }

    @Test(arguments: ServerKind.available) func anOversizedFrameEndsTheConnectionOrIsRefused(_ kind: ServerKind) throws
    {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            let answer = try raw.ask(.write, "/test\0" + String(repeating: "x", count: 4200))
            #expect(answer == (kind == .oxenstored ? "E2BIG" : nil))
            // Others are served in any case.
            #expect(try RawClient(server.socket).ask(.read, "/test\0") == "ENOENT")
        }
    }

    @Test(arguments: ServerKind.available) func unknownOperationsAreRefused(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            for type: UInt32 in [20, 23, 99] {
                try raw.send(XenstoreFrame(type: type, request: 5, transaction: 0, payload: Array("/a\0".utf8)))
                let answer = try raw.receive()
                #expect(answer?.text == "ENOSYS" && answer?.request == 5, "type \(type)")
            }
        }
    }

    @Test(arguments: ServerKind.available) func relativePathsBelongToTheDomain(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let raw = try RawClient(server.socket)
            #expect(try raw.ask(.write, "test\0value") == "OK")
            #expect(try raw.ask(.read, "/local/domain/0/test\0") == "value")
        }
    }

    @Test(arguments: ServerKind.available) func aConnectionLearnsItsDomain(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            #expect(try client.ownDomain() == nil, "nobody has noted it")
            try client.write(path("/local/domain/0/domid"), "0")
            #expect(try client.ownDomain() == DomainID(0))
            try client.write(path("/local/domain/0/domid"), "many")
            #expect(throws: XenstoreError.protocolViolation("domid is no number")) { try client.ownDomain() }
        }
    }

    @Test(arguments: ServerKind.available) func rewritingFiresAndMkdirOfANodeDoesNot(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            try client.write(path("/test"), "same")
            let watch = try client.watch(path("/test"))
            try client.expectEvents([watch])
            try client.write(path("/test"), "same")
            try client.expectEvents([watch])
            try client.makeDirectory(path("/test"))
            try client.settle()
            #expect(!client.hasPendingEvents)
        }
    }

    /// oxenstored cannot map a domain's ring without Xen, and refuses.
    @Test(arguments: ServerKind.available.filter { $0 != .oxenstored })
    func domainsComeAndGo(_ kind: ServerKind) throws {
        try withServer(kind) { server in
            let client = try server.client()
            let domain = DomainID(7)
            let introduced = try client.watch(.introduceDomain)
            let released = try client.watch(.releaseDomain)
            try client.expectEvents([introduced, released])
            try client.introduce(domain, frame: 1, port: EventPort(1))
            try client.expectEvents([introduced])
            #expect(try client.isIntroduced(domain))
            let node = try XenstorePath.domain(domain.rawValue).appending("device")
            try client.write(node, "1")
            try client.setPermissions(XenstorePermissions(owner: domain), of: node)
            try client.release(domain)
            try client.expectEvents([released])
            #expect(try !client.isIntroduced(domain))
            #expect(try client.read(node) == nil)
        }
    }
}
