internal import Descriptors
internal import Glibc

/// One connection's bytes: frames out, frames in, never waiting but in `wait`.
final class Connection {
    let transport: any XenstoreTransport
    private var decoder = XenstoreFrameDecoder(maximumPayload: XenstoreFrame.maximumIncomingPayload)
    private var unsent: [UInt8] = []

    /// Bytes taken from the stream at once.
    private static let readSize = 64 * 1024

    init(_ transport: any XenstoreTransport) {
        self.transport = transport
    }

    /// Refuses what this way to the server cannot carry.
    func check(_ request: XenstoreRequest) throws(XenstoreError) {
        guard request.payload.count <= transport.maximumPayload else {
            throw .invalidArgument(
                "\(request.description): \(request.payload.count) bytes exceed \(transport.maximumPayload)")
        }
    }

    /// Queues a whole frame; `flush` sends it.
    func enqueue(_ request: XenstoreRequest, id: UInt32, transaction: UInt32) {
        unsent += request.encoded(request: id, transaction: transaction)
    }

    /// Sends what there is room for.
    func flush() throws(XenstoreError) {
        while !unsent.isEmpty {
            let sent = try lost { () throws(Fault) in try transport.write(unsent[...]) }
            if sent == 0 { return }
            unsent.removeFirst(sent)
        }
    }

    /// Takes at most one buffer from the stream; true if there was something.
    func fill() throws(XenstoreError) -> Bool {
        guard let bytes = try lost({ () throws(Fault) in try transport.read(atMost: Connection.readSize) }) else {
            return false
        }
        guard !bytes.isEmpty else { throw .connectionLost(Fault("read xenstore", errno: ECONNRESET)) }
        decoder.append(bytes)
        return true
    }

    /// The next complete frame that `fill` has taken.
    func nextFrame() throws(XenstoreError) -> XenstoreFrame? {
        do {
            return try decoder.next()
        } catch {
            throw .protocolViolation("a frame of \(error.length) bytes")
        }
    }

    /// Waits for the peer; false when the time is over.
    func wait(milliseconds: Int32) throws(XenstoreError) -> Bool {
        try lost { () throws(Fault) in
            try transport.wait(writing: !unsent.isEmpty, milliseconds: milliseconds)
        }
    }

    private func lost<Value>(_ body: () throws(Fault) -> Value) throws(XenstoreError) -> Value {
        do { return try body() } catch { throw .connectionLost(error) }
    }
}
