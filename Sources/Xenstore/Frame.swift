/// The operations of the wire protocol (xen/io/xs_wire.h, enum xsd_sockmsg_type), as far as any server here knows them.
public enum XenstoreOperation: UInt32, Sendable, CaseIterable {
    case control = 0
    case directory = 1
    case read = 2
    case getPermissions = 3
    case watch = 4
    case unwatch = 5
    case transactionStart = 6
    case transactionEnd = 7
    case introduce = 8
    case release = 9
    case getDomainPath = 10
    case write = 11
    case makeDirectory = 12
    case remove = 13
    case setPermissions = 14
    case watchEvent = 15
    case error = 16
    case isDomainIntroduced = 17
    case resume = 18
    case setTarget = 19
    case resetWatches = 21
    case directoryPart = 22
}

/// One message in either direction, as it is on the wire: nothing about it has been checked but its length.
public struct XenstoreFrame: Equatable, Sendable {
    public static let headerLength = 16
    /// XENSTORE_PAYLOAD_MAX: what a client may send.
    public static let maximumPayload = 4096
    /// What a client accepts. oxenstored answers DIRECTORY with more than 4096 bytes; nobody needs more than this.
    public static let maximumIncomingPayload = 1 << 20

    /// `XenstoreOperation`, unless the peer invented one.
    public var type: UInt32
    public var request: UInt32
    public var transaction: UInt32
    public var payload: [UInt8]

    public init(type: UInt32, request: UInt32, transaction: UInt32, payload: [UInt8]) {
        self.type = type
        self.request = request
        self.transaction = transaction
        self.payload = payload
    }

    /// The known operation, if it is one.
    public var operation: XenstoreOperation? { XenstoreOperation(rawValue: type) }

    /// Header (four little-endian words: Xen runs on little-endian machines only) and payload.
    public var encoded: [UInt8] {
        let length = UInt32(truncatingIfNeeded: payload.count)
        return [type, request, transaction, length].flatMap(XenstoreFrame.littleEndian) + payload
    }

    private static func littleEndian(_ word: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * UInt32($0))) }
    }
}

/// Puts frames together again from a stream of bytes.
public struct XenstoreFrameDecoder: Sendable {
    /// A frame longer than the receiver accepts: there is no way to find the next one.
    public struct Oversized: Error, Equatable, Sendable {
        public let length: UInt32
    }

    private let maximumPayload: Int
    private var buffer: [UInt8] = []
    private var consumed = 0

    public init(maximumPayload: Int) {
        self.maximumPayload = maximumPayload
    }

    /// Adds what was received.
    public mutating func append(_ bytes: [UInt8]) {
        buffer.removeFirst(consumed)
        consumed = 0
        buffer += bytes
    }

    /// The next complete frame; nil until more bytes were appended.
    public mutating func next() throws(Oversized) -> XenstoreFrame? {
        let available = buffer.count - consumed
        guard available >= XenstoreFrame.headerLength else { return nil }
        let length = word(3)
        guard length <= maximumPayload else { throw Oversized(length: length) }
        let total = XenstoreFrame.headerLength + Int(length)
        guard available >= total else { return nil }
        let payload = Array(buffer[(consumed + XenstoreFrame.headerLength)..<(consumed + total)])
        let frame = XenstoreFrame(type: word(0), request: word(1), transaction: word(2), payload: payload)
        consumed += total
        return frame
    }

    private func word(_ index: Int) -> UInt32 {
        let start = consumed + index * 4
        return (0..<4).reduce(0) { $0 | UInt32(buffer[start + $1]) << (8 * UInt32($1)) }
    }
}

extension [UInt8] {
    /// The strings of a payload in which every string has its NUL, the last one too; nil if the last one has none.
    public var nulTerminatedStrings: [ArraySlice<UInt8>]? {
        if isEmpty { return [] }
        guard last == 0 else { return nil }
        return dropLast().split(separator: 0, omittingEmptySubsequences: false)
    }
}
