internal import Descriptors
internal import Glibc
internal import Xenstore

/// xenstore through /dev/xen/xenbus: the only way in a driver domain, and in dom0 where xenstored runs in a domain of
/// its own.
///
/// The device looks like a socket and is none (xenbus_dev_frontend.c): a write carries one message and no more, of at
/// most 4,096 bytes with its header; the next one may be written only when it was answered, because the kernel sends it
/// from the buffer that it was written to (xenbus_dev_request_and_reply keeps a pointer); a watch that xenstored refuses
/// is an error of write(2) instead of an answer; and room to write is never announced, because there always is.
final class XenbusTransport: XenstoreTransport {
    private let calls: any StreamCalls
    private let path: String
    /// Answers to what the kernel refused in its own way.
    private var refusals: [UInt8] = []

    /// The buffer that the kernel collects a message in (xenbus_dev_frontend.c, union of `msg` and `buffer`).
    private static let largestMessage = 4096

    /// - Parameter patience: milliseconds in which the server must answer a first question. Without that, registering a
    ///   watch would block in the kernel for as long as nobody serves the store.
    init(_ calls: any StreamCalls, path: String, patience: Int32 = 2000) throws(Fault) {
        self.calls = calls
        self.path = path
        try greet(within: patience)
    }

    var descriptor: Int32 { calls.descriptor }
    var maximumPayload: Int { Self.largestMessage - XenstoreFrame.headerLength }

    var requestsInFlight: Int { 1 }

    // MARK: The stream

    func read(atMost count: Int) throws(Fault) -> [UInt8]? {
        if let answer = takeRefusals(atMost: count) { return answer }
        var result = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            // The kernel writes at most the buffer's length and says how much.
            result = unsafe calls.read(UnsafeMutableRawBufferPointer(buffer))
            initialized = max(result, 0)
        }
        if result == -Int(EAGAIN) { return nil }
        guard result >= 0 else { throw fault("read", result) }
        return bytes
    }

    /// Sends the first message of `bytes`; anything behind it in the same call would be dropped.
    func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int {
        guard let length = Self.messageLength(bytes) else { throw fault("write", -Int(EINVAL)) }
        let message = bytes.prefix(length)
        // The kernel reads the slice during the call only.
        let result = unsafe message.withUnsafeBytes { unsafe calls.write($0) }
        if result == -Int(EAGAIN) { return 0 }
        if result < 0 {
            guard let refusal = Self.refusal(of: message, result) else { throw fault("write", result) }
            refusals += refusal
        }
        return length
    }

    func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool {
        guard refusals.isEmpty else { return true }
        let result = calls.wait(milliseconds: milliseconds)
        if result == -EINTR { return true }
        guard result >= 0 else { throw fault("poll", Int(result)) }
        return result != 0
    }

    private func takeRefusals(atMost count: Int) -> [UInt8]? {
        guard !refusals.isEmpty else { return nil }
        let taken = Array(refusals.prefix(count))
        refusals.removeFirst(taken.count)
        return taken
    }

    private func fault(_ call: String, _ result: Int) -> Fault {
        Fault("\(call) \(path)", errno: Int32(truncatingIfNeeded: -result))
    }
}

// What goes over the device.
extension XenbusTransport {
    /// The length of the message at the front, header and payload; nil if it is not all there or too long.
    static func messageLength(_ bytes: ArraySlice<UInt8>) -> Int? {
        guard bytes.count >= XenstoreFrame.headerLength else { return nil }
        let field = bytes.dropFirst(12).prefix(4)
        let payload = field.reversed().reduce(0) { $0 << 8 | Int($1) }
        let length = XenstoreFrame.headerLength + payload
        return length <= min(bytes.count, largestMessage) ? length : nil
    }

    /// The answer that xenstored would have sent, if the errno is one that it knows: those the kernel passes on.
    static func refusal(of message: ArraySlice<UInt8>, _ result: Int) -> [UInt8]? {
        var decoder = XenstoreFrameDecoder(maximumPayload: largestMessage)
        decoder.append(Array(message))
        guard let name = XenstoreErrorName(errno: Int32(truncatingIfNeeded: -result)),
            let request = try? decoder.next()
        else { return nil }
        return XenstoreFrame(
            type: XenstoreOperation.error.rawValue, request: request.request, transaction: request.transaction,
            payload: Array(name.rawValue.utf8) + [0]
        ).encoded
    }

    /// Asks for the path of domain 0, which everybody may, and throws the answer away.
    private func greet(within patience: Int32) throws(Fault) {
        let question = XenstoreFrame(
            type: XenstoreOperation.getDomainPath.rawValue, request: 0, transaction: 0, payload: Array("0".utf8) + [0])
        guard try write(question.encoded[...]) > 0 else { throw fault("write", -Int(EAGAIN)) }
        var decoder = XenstoreFrameDecoder(maximumPayload: Self.largestMessage)
        while true {
            if let bytes = try read(atMost: Self.largestMessage) {
                guard !bytes.isEmpty else { throw fault("read", -Int(ECONNRESET)) }
                decoder.append(bytes)
            }
            do {
                if try decoder.next() != nil { return }
            } catch {
                throw fault("read", -Int(EPROTO))
            }
            guard try wait(writing: false, milliseconds: patience) else {
                throw Fault("\(path): xenstored does not answer", errno: ETIMEDOUT)
            }
        }
    }
}

extension XenstoreErrorName {
    /// The name of an errno that the kernel made out of a name (xs.c, get_error).
    init?(errno code: Int32) {
        let names: [Int32: XenstoreErrorName] = [
            EINVAL: .invalid, EACCES: .accessDenied, EEXIST: .exists, EISDIR: .isDirectory, ENOENT: .noEntry,
            ENOMEM: .outOfMemory, ENOSPC: .noSpace, EIO: .inputOutput, ENOTEMPTY: .notEmpty, ENOSYS: .notImplemented,
            EROFS: .readOnly, EBUSY: .busy, EISCONN: .isConnected, E2BIG: .tooBig, EPERM: .notPermitted,
        ]
        guard let name = names[code] else { return nil }
        self = name
    }
}
