import Descriptors
import Glibc
import Loopback
import Testing
import XenWire
import Xenstore

@testable import LiveXen

/// /dev/xen/xenbus as xenbus_dev_frontend.c behaves, with a xenstore model behind it.
private final class ModelXenbus: StreamCalls {
    private let store: any XenstoreTransport
    private var unread: [UInt8] = []
    /// Writes that carried more than one message, or less: what is behind the first is dropped by the kernel.
    private(set) var misfits = 0
    private(set) var largest = 0
    /// Messages that were written over the one before, which the kernel may not have sent yet.
    private(set) var overwritten = 0
    private var isAwaitingAnswer = false
    /// Nobody serves the store.
    var isDead = false

    init(_ store: any XenstoreTransport) { self.store = store }

    var descriptor: Int32 { -1 }

    func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        let all = unsafe Array(bytes)
        largest = max(largest, all.count)
        guard all.count <= 4096 else { return -Int(EINVAL) }
        var decoder = XenstoreFrameDecoder(maximumPayload: 4096)
        decoder.append(all)
        guard let frame = try? decoder.next() else {
            misfits += 1
            return all.count
        }
        if frame.encoded.count != all.count { misfits += 1 }
        if isAwaitingAnswer { overwritten += 1 }
        isAwaitingAnswer = frame.operation != .watch && frame.operation != .unwatch
        return isDead ? all.count : pass(frame, all.count)
    }

    private func pass(_ frame: XenstoreFrame, _ count: Int) -> Int {
        guard (try? store.write(frame.encoded[...])) != nil else { return -Int(EIO) }
        guard frame.operation == .watch else { return count }
        // register_xenbus_watch waits for the answer; an error of the server's is one of the call's.
        let answers = received()
        if let refusal = answers.first(where: { $0.operation == .error }) {
            return refusal.payload.starts(with: Array("EEXIST".utf8)) ? -Int(EEXIST) : -Int(EINVAL)
        }
        unread += answers.flatMap { disguised($0).encoded }
        return count
    }

    private func received() -> [XenstoreFrame] {
        var decoder = XenstoreFrameDecoder(maximumPayload: 1 << 20)
        while let bytes = try? store.read(atMost: 4096), !bytes.isEmpty { decoder.append(bytes) }
        var frames: [XenstoreFrame] = []
        while let frame = try? decoder.next() { frames.append(frame) }
        return frames
    }

    /// The header of an event is whatever was on the kernel's stack.
    private func disguised(_ frame: XenstoreFrame) -> XenstoreFrame {
        guard frame.operation == .watchEvent else { return frame }
        return XenstoreFrame(
            type: frame.type, request: 0xDEAD_BEEF, transaction: 0xFFFF_8881, payload: frame.payload)
    }

    func read(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        unread += received().flatMap { disguised($0).encoded }
        guard !unread.isEmpty else { return -Int(EAGAIN) }
        // The kernel hands out piece by piece, header and body apart.
        isAwaitingAnswer = false
        let piece = min(unread.count, buffer.count, 7)
        for index in 0..<piece { unsafe buffer[index] = unread[index] }
        unread.removeFirst(piece)
        return piece
    }

    func wait(milliseconds: Int32) -> Int32 {
        if unread.isEmpty { unread += received().flatMap { disguised($0).encoded } }
        return unread.isEmpty ? 0 : Int32(POLLIN)
    }
}

@Suite struct XenbusTransportTests {
    private let store = InProcessXenstore()
    private let device: ModelXenbus
    private let client: XenstoreClient

    init() throws {
        let device = ModelXenbus(store.connect(DomainID(0)))
        self.device = device
        client = try XenstoreClient { () throws(Fault) in try XenbusTransport(device, path: "/dev/xen/xenbus") }
    }

    /// What the owner's loop does while the descriptor is readable.
    private func processAll() throws {
        while device.wait(milliseconds: 0) != 0 { try client.processReadable() }
    }

    private func path(_ text: String) throws -> XenstorePath { try XenstorePath(text) }

    @Test func `pipelined requests go out one by one`() throws {
        var paths: [XenstorePath] = []
        for number in 0..<40 {
            paths.append(try path("/a/\(number)"))
            try client.write(path("/a/\(number)"), "value \(number)")
        }
        let values = try client.readAll(paths).map { $0?.text }
        #expect(values == (0..<40).map { "value \($0)" })
        #expect(device.misfits == 0)
        #expect(device.overwritten == 0, "the kernel has one buffer for what is on its way")
    }

    @Test func `the payload is 16 bytes shorter than on the socket`() throws {
        let name = "/a/b"
        let room = 4096 - XenstoreFrame.headerLength - name.utf8.count - 1
        try client.write(path(name), String(repeating: "x", count: room))
        #expect(device.largest == 4096)
        #expect {
            try client.write(path(name), String(repeating: "x", count: room + 1))
        } throws: { error in
            "\(error)".contains("exceed 4080")
        }
        #expect(device.largest == 4096 && client.isConnected)
    }

    @Test func `watches fire although their events carry no identifiers`() throws {
        let watch = try client.watch(path("/a"))
        try processAll()
        #expect(client.pendingEvents() == [watch], "every watch is pending at once")
        try client.write(path("/a/b"), "1")
        try processAll()
        #expect(client.pendingEvents() == [watch])
        try client.write(path("/c"), "1")
        try processAll()
        #expect(client.pendingEvents().isEmpty)
    }

    @Test func `transactions work and conflict as elsewhere`() throws {
        let value = try client.transaction { store throws(XenstoreError) in
            try store.write(XenstorePath("/t/a"), "1")
            return try store.read(XenstorePath("/t/a"))?.text
        }
        #expect(value == "1")
        #expect(try client.read(path("/t/a"))?.text == "1")
    }

    @Test func `what the kernel refuses with an errno is the server's refusal`() throws {
        let device = self.device
        let transport = try XenbusTransport(device, path: "/dev/xen/xenbus")
        let watch = XenstoreFrame(type: 4, request: 7, transaction: 0, payload: Array("/a\0token\0".utf8))
        #expect(try transport.write(watch.encoded[...]) == watch.encoded.count)
        #expect(try transport.write(watch.encoded[...]) == watch.encoded.count, "a second time: EEXIST")
        #expect(try transport.wait(writing: false, milliseconds: 0))
        var decoder = XenstoreFrameDecoder(maximumPayload: 4096)
        var frames: [XenstoreFrame] = []
        while let bytes = try transport.read(atMost: 4096) { decoder.append(bytes) }
        while let frame = try decoder.next() { frames.append(frame) }
        #expect(
            frames.contains(XenstoreFrame(type: 16, request: 7, transaction: 0, payload: Array("EEXIST\0".utf8))))
    }

    @Test func `an errno that no server sends is a lost connection`() {
        let frame = XenstoreFrame(type: 4, request: 7, transaction: 0, payload: [0]).encoded
        #expect(XenbusTransport.refusal(of: frame[...], -Int(ENODEV)) == nil)
        #expect(XenbusTransport.refusal(of: frame[...], -Int(EFAULT)) == nil)
        #expect(XenbusTransport.refusal(of: frame[...], -Int(ENOSPC)) != nil)
    }

    @Test func `a device behind which nobody answers is told at once, not by a watch that hangs`() throws {
        let dead = ModelXenbus(store.connect(DomainID(0)))
        dead.isDead = true
        #expect(throws: Fault("/dev/xen/xenbus: xenstored does not answer", errno: ETIMEDOUT)) {
            _ = try XenbusTransport(dead, path: "/dev/xen/xenbus", patience: 1)
        }
    }

    @Test(arguments: 0...20) func `half a header or a message beyond the kernel's buffer has no length`(count: Int) {
        let frame = XenstoreFrame(type: 2, request: 1, transaction: 0, payload: [1, 2, 3, 4]).encoded
        #expect(XenbusTransport.messageLength(frame[..<count]) == (count == 20 ? 20 : nil))
        let long = XenstoreFrame(type: 2, request: 1, transaction: 0, payload: Array(repeating: 1, count: 4081)).encoded
        #expect(XenbusTransport.messageLength(long[...]) == nil)
    }
}
