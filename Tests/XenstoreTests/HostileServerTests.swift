import Descriptors
import Glibc
import Testing
import XenWire

@testable import Xenstore

/// A server that answers what a test wants it to, in the same thread.
private final class ScriptedTransport: XenstoreTransport {
    typealias Script = (XenstoreFrame) -> [UInt8]

    private let script: Script
    private let pieceSize: Int
    private var requests = XenstoreFrameDecoder(maximumPayload: XenstoreFrame.maximumPayload)
    private var answers: [UInt8] = []
    var hasEnded = false

    init(pieceSize: Int = .max, _ script: @escaping Script) {
        self.script = script
        self.pieceSize = pieceSize
    }

    var descriptor: Int32 { -1 }
    let maximumPayload = 4080

    func push(_ bytes: [UInt8]) { answers += bytes }

    func read(atMost count: Int) throws(Fault) -> [UInt8]? {
        let bytes = Array(answers.prefix(min(count, pieceSize)))
        answers.removeFirst(bytes.count)
        return bytes.isEmpty && !hasEnded ? nil : bytes
    }

    func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int {
        let taken = Array(bytes.prefix(pieceSize))
        requests.append(taken)
        while let frame = try? requests.next() { answers += script(frame) }
        return taken.count
    }

    func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool { !answers.isEmpty || hasEnded }
}

private func client(_ transport: ScriptedTransport) throws -> XenstoreClient {
    try XenstoreClient { () throws(Fault) in transport }
}

extension XenstoreFrame {
    fileprivate func answered(
        _ payload: String, type: XenstoreOperation? = nil, id: UInt32? = nil
    ) -> [UInt8] {
        XenstoreFrame(
            type: type?.rawValue ?? self.type, request: id ?? request, transaction: transaction,
            payload: Array(payload.utf8)
        ).encoded
    }
}

private let event = XenstoreFrame(
    type: XenstoreOperation.watchEvent.rawValue, request: 0xDEAD_BEEF, transaction: 0xDEAD_BEEF,
    payload: Array("/a\u{0}1\0".utf8))

@Suite struct HostileServerTests {
    @Test func framesMayArriveByteByByte() throws {
        let transport = ScriptedTransport(pieceSize: 1) { $0.answered("value") }
        #expect(try client(transport).read(path("/a"))?.text == "value")
    }

    /// The kernel's /dev/xen/xenbus leaves the ids of events uninitialised.
    @Test func eventsMayComeBeforeAndBetweenAnswers() throws {
        let transport = ScriptedTransport { event.encoded + event.encoded + $0.answered("OK\0") + event.encoded }
        let client = try client(transport)
        _ = try client.watch(path("/a"))
        _ = client.pendingEvents()
        #expect(try client.readAll([path("/a"), path("/b")]).map { $0?.bytes.count } == [3, 3])
        try client.processReadable()
        #expect(!client.hasPendingEvents, "an event with another watch's token")
    }

    @Test func answersAreMatchedByID() throws {
        var held: [[UInt8]] = []
        let transport = ScriptedTransport { frame in
            held.append(frame.answered(String(decoding: frame.payload.dropLast(), as: UTF8.self)))
            return held.count == 3 ? held.reversed().flatMap(\.self) : []
        }
        let values = try client(transport).readAll([path("/a"), path("/b"), path("/c")])
        #expect(values.map { $0?.text } == ["/a", "/b", "/c"])
    }

    @Test(arguments: [
        "unknown id", "other type", "oversized", "unasked", "event without token", "end of stream", "error without NUL",
    ])
    func aBrokenStreamIsGivenUp(_ fault: String) throws {
        let transport = ScriptedTransport { frame in
            switch fault {
            case "unknown id": frame.answered("value", id: frame.request &+ 1)
            case "other type": frame.answered("value", type: .directory)
            case "oversized": Array(frame.answered("value").prefix(12)) + [0, 0, 0, 0x7F]
            case "unasked": frame.answered("value") + frame.answered("value")
            case "event without token": frame.answered("/a", type: .watchEvent)
            case "error without NUL": frame.answered("ENOENT", type: .error)
            default: []
            }
        }
        let client = try client(transport)
        transport.hasEnded = fault == "end of stream"
        if fault == "error without NUL" {
            // Tolerated: nothing about it is ambiguous.
            #expect(try client.read(path("/a")) == nil)
            return
        }
        #expect(throws: XenstoreError.self) {
            _ = try client.read(path("/a"))
            try client.processReadable()
        }
        #expect(!client.isConnected)
    }

    @Test func silenceEndsAtTheDeadline() throws {
        let transport = ScriptedTransport { _ in [] }
        let client = try client(transport)
        #expect(throws: XenstoreError.deadlinePassed("READ /a")) { try client.read(path("/a")) }
        #expect(!client.isConnected)
    }

    @Test func unknownErrorsAreInvalidArguments() throws {
        let transport = ScriptedTransport { $0.answered("EQUOTA\0", type: .error) }
        let error = #expect(throws: XenstoreError.self) { try client(transport).read(path("/a")) }
        #expect(error?.name == .invalid)
    }

    /// /dev/xen/xenbus carries 16 bytes less than the socket.
    @Test func theTransportBoundsThePayload() throws {
        var requests = 0
        let transport = ScriptedTransport { frame in
            requests += 1
            return frame.answered("OK\0")
        }
        let client = try client(transport)
        try client.write(path("/a"), bytes: Array(repeating: 1, count: 4077))
        #expect(throws: XenstoreError.self) { try client.write(path("/a"), bytes: Array(repeating: 1, count: 4078)) }
        #expect(requests == 1 && client.isConnected)
    }

    @Test func aDirectoryThatChangesIsListedAgain() throws {
        // Two parts; the directory changes between them, the first time.
        var offsets: [String] = []
        let transport = ScriptedTransport { frame in
            if frame.operation == .directory { return frame.answered("E2BIG\0", type: .error) }
            let offset = String(decoding: frame.payload.dropFirst(3).dropLast(), as: UTF8.self)
            offsets.append(offset)
            let generation = offsets.count == 1 ? "7" : "8"
            return frame.answered(offset == "0" ? "\(generation)\0a\0bc\0" : "\(generation)\0d\0\0")
        }
        #expect(try client(transport).directory(path("/a")) == ["a", "bc", "d"])
        #expect(offsets == ["0", "5", "0", "5"])
    }

    @Test(arguments: ["", "7", "7\0", "7\0a", "7\0a\0"])
    func aDirectoryWithoutEndIsGivenUp(_ part: String) throws {
        let transport = ScriptedTransport { frame in
            frame.operation == .directory ? frame.answered("E2BIG\0", type: .error) : frame.answered(part)
        }
        #expect(throws: XenstoreError.self) { try client(transport).directory(path("/a")) }
    }

    @Test(arguments: ["", "0\0", "x\0", "-1\0", "4294967296\0"])
    func aTransactionNeedsANumber(_ id: String) throws {
        let transport = ScriptedTransport { $0.answered(id) }
        let client = try client(transport)
        #expect(throws: XenstoreError.self) { try client.transaction { (_) throws(XenstoreError) in } }
        #expect(!client.isConnected)
    }

    @Test func aTransactionWhoseConnectionIsLostIsNotRepeated() throws {
        let transport = ScriptedTransport { $0.operation == .transactionStart ? $0.answered("1\0") : [] }
        let client = try client(transport)
        var attempts = 0
        #expect(throws: XenstoreError.self) {
            try client.transaction { (store) throws(XenstoreError) in
                attempts += 1
                transport.hasEnded = true
                _ = try store.read(.root)
            }
        }
        #expect(attempts == 1)
    }

    @Test func anEventAfterTheEndOfItsWatchIsIgnored() throws {
        let transport = ScriptedTransport { $0.answered("OK\0") }
        let client = try client(transport)
        let watch = try client.watch(path("/a"))
        // Numbers are given to watches and tokens in turn: this is the token of the first registration.
        transport.push(Array(event.encoded.dropLast(2)) + Array("2\0".utf8))
        try client.processReadable()
        #expect(client.hasPendingEvents)
        try client.unwatch(watch)
        #expect(client.pendingEvents() == [])
        transport.push(Array(event.encoded.dropLast(2)) + Array("2\0".utf8))
        try client.processReadable()
        #expect(client.pendingEvents() == [])
    }

    @Test func aFailedReconnectKeepsTheWatches() throws {
        var refuses = false
        let transport = ScriptedTransport { refuses ? $0.answered("EACCES\0", type: .error) : $0.answered("OK\0") }
        let client = try client(transport)
        let watch = try client.watch(path("/a"))
        refuses = true
        #expect(throws: XenstoreError.self) { try client.reconnect() }
        #expect(!client.isConnected && !client.hasPendingEvents)
        refuses = false
        try client.reconnect()
        #expect(client.pendingEvents() == [watch])
    }

    @Test func randomAnswersNeverTrap() throws {
        var generator = SplitMix(seed: 4)
        for _ in 0..<2000 {
            var frame = XenstoreFrame.random(&generator)
            let isPlausible = Bool.random(using: &generator)
            let transport = ScriptedTransport { request in
                if isPlausible {
                    frame.request = request.request
                    frame.type = request.type
                }
                return frame.encoded
            }
            let client = try client(transport)
            _ = try? client.read(.root)
            _ = try? client.directory(.root)
            _ = try? client.permissions(of: .root)
            _ = try? client.watch(.root)
            _ = try? client.transaction { (store) throws(XenstoreError) in try store.readAll([.root, .root]) }
        }
    }
}
