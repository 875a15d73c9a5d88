import Foundation
import Loopback
import Testing
import XenWire

@testable import Xenstore

/// The servers that the client must get along with.
enum ServerKind: String, CaseIterable, CustomTestStringConvertible {
    case model
    case cXenstored
    case oxenstored

    var testDescription: String { rawValue }

    /// Those that can run here. The model always can.
    static let available: [ServerKind] = allCases.filter { kind in
        guard let reason = kind.unavailability else { return true }
        FileHandle.standardError.write(Data("XenstoreTests: NOT tested against \(kind.rawValue): \(reason)\n".utf8))
        return false
    }

    /// The real ones among them.
    static let real = available.filter { $0 != .model }

    /// Why a server cannot be run here; nil if it can.
    var unavailability: String? {
        if self == .model { return nil }
        let program = self == .cXenstored ? "xenstored" : "oxenstored"
        for path in ["usr/lib/xen-4.17/bin/\(program)", "shim.so"]
        where !FileManager.default.fileExists(atPath: "\(Self.directory)/\(path)") {
            return "\(Self.directory)/\(path) is missing; scripts/fetch-xenstoreds makes it"
        }
        return self == .oxenstored && geteuid() != 0 ? "it needs root, for a mount namespace" : nil
    }

    static let repository = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

    static let directory =
        ProcessInfo.processInfo.environment["XENSTORED_DIR"] ?? "\(repository)/.build/xenstoreds"
}

/// One server, for one test.
final class RunningServer {
    let kind: ServerKind
    let directory: String
    private var model: XenstoreServer?
    private var process: Process?
    /// The child ends when this closes, even if this process is killed.
    private let lifeline = Pipe()

    fileprivate init(_ kind: ServerKind) throws {
        self.kind = kind
        directory = FileManager.default.temporaryDirectory.appendingPathComponent("xenstore-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        if kind == .model {
            model = try XenstoreServer(directory: directory)
        } else {
            try startProcess()
        }
    }

    var socket: String { kind == .model ? "\(directory)/xenstored.socket" : "\(directory)/socket" }

    /// A client of dom0. Slow machines are no reason to fail.
    func client(_ change: (inout XenstoreClient.Configuration) -> Void = { _ in }) throws -> XenstoreClient {
        var configuration = XenstoreClient.Configuration()
        configuration.deadlineMilliseconds = 60_000
        change(&configuration)
        return try XenstoreClient(socket: socket, configuration: configuration)
    }

    private func startProcess() throws {
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "\(ServerKind.repository)/scripts/run-xenstored")
        child.arguments = [kind == .cXenstored ? "c" : "ocaml", directory]
        child.standardInput = lifeline
        child.standardOutput = FileHandle.nullDevice
        try child.run()
        process = child
        try waitUntilServing(child)
    }

    private func waitUntilServing(_ child: Process) throws {
        while child.isRunning {
            if (try? SocketTransport(path: socket)) != nil { return }
            usleep(5_000)
        }
        throw StartFailure(kind: kind)
    }

    func stopModel() { model?.stop() }

    fileprivate func stop() {
        stopModel()
        if let process {
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    struct StartFailure: Error { let kind: ServerKind }
}

/// Runs `body` with a fresh server, which ends with it, however it ends.
func withServer(_ kind: ServerKind, _ body: (RunningServer) throws -> Void) throws {
    let server = try RunningServer(kind)
    defer { server.stop() }
    try body(server)
}

/// Frames without the client's help or checks.
final class RawClient {
    private let transport: SocketTransport
    private var decoder = XenstoreFrameDecoder(maximumPayload: XenstoreFrame.maximumIncomingPayload)

    init(_ socket: String) throws {
        transport = try SocketTransport(path: socket)
    }

    func send(_ operation: XenstoreOperation, _ payload: String, transaction: UInt32 = 0, id: UInt32 = 1) throws {
        try send(
            XenstoreFrame(
                type: operation.rawValue, request: id, transaction: transaction, payload: Array(payload.utf8)))
    }

    func send(_ frame: XenstoreFrame) throws { try send(bytes: frame.encoded) }

    func send(bytes: [UInt8]) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            rest = rest.dropFirst(try transport.write(rest))
            if !rest.isEmpty { _ = try transport.wait(writing: true, milliseconds: 60_000) }
        }
    }

    /// The next frame; nil when the server has closed the connection.
    func receive() throws -> XenstoreFrame? {
        while true {
            if let frame = try decoder.next() { return frame }
            guard let bytes = try? transport.read(atMost: 65536) else {
                guard try transport.wait(writing: false, milliseconds: 60_000) else { return nil }
                // Readable, and yet nothing to read: the connection was reset.
                if (try? transport.read(atMost: 0)) == nil { return nil }
                continue
            }
            if bytes.isEmpty { return nil }
            decoder.append(bytes)
        }
    }

    /// The answer to one request, events skipped: its payload without the last NUL, or the error's name.
    func ask(_ operation: XenstoreOperation, _ payload: String, transaction: UInt32 = 0) throws -> String? {
        try send(operation, payload, transaction: transaction)
        while let frame = try receive() {
            if frame.operation == .watchEvent { continue }
            return frame.text
        }
        return nil
    }

    func startTransaction() throws -> UInt32 {
        try #require(UInt32(try ask(.transactionStart, "\0") ?? ""))
    }
}

extension XenstoreFrame {
    var text: String { String(decoding: payload.last == 0 ? payload.dropLast() : payload[...], as: UTF8.self) }
}

extension XenstoreClient {
    /// Waits until exactly these watches have fired, each at least once.
    func expectEvents(_ expected: [XenstoreWatch]) throws {
        var seen: Set<XenstoreWatch> = []
        while !seen.isSuperset(of: expected) {
            seen.formUnion(pendingEvents())
            if seen.isSuperset(of: expected) { break }
            try #require(waitReadable(60_000))
            try processReadable()
        }
        #expect(seen == Set(expected))
    }

    func waitReadable(_ milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&entry, 1, milliseconds) == 1
    }

    /// All that the server had to say before it answers this is here afterwards.
    func settle() throws {
        _ = try read(.root)
    }
}

func path(_ text: String) throws -> XenstorePath { try XenstorePath(text) }
