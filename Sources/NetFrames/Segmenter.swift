/// Cuts a large TCP frame for a guest that takes none (RFC 9293; what the kernel's tcp_gso_segment does).
///
/// Safe because the maker answers for the frame, and all offsets were checked against its length.
@safe public struct Segmenter {
    private let frame: UnsafeRawPointer
    private let headers: FrameHeaders
    private let start: Int
    private let payload: Int
    private var position: Int
    private var number: UInt16 = 0

    /// Flags of a TCP header: the last segment's, and the first one's.
    private static let fin: UInt8 = 1, push: UInt8 = 8, congestionWindowReduced: UInt8 = 0x80

    /// Nil if the frame is no TCP segment.
    ///
    /// - Parameters:
    ///   - frame: private memory that outlives the value.
    ///   - payload: bytes of payload per segment; more than 0.
    public init?(_ frame: UnsafeRawPointer, _ headers: FrameHeaders, payload: Int) {
        guard let start = unsafe headers.payload(frame), payload > 0 else { return nil }
        unsafe self.frame = frame
        self.headers = headers
        self.start = start
        self.payload = payload
        position = start
    }

    /// Bytes of the largest segment.
    public var largest: Int { start + min(payload, max(headers.end - start, 0)) }

    /// Writes the next segment, with complete sums, to `segment`, which has room for `largest` bytes; how many it has,
    /// nil after the last.
    public mutating func next(_ segment: UnsafeMutableRawPointer) -> Int? {
        guard position < headers.end || number == 0 else { return nil }
        let length = min(payload, headers.end - position)
        // Headers and payload lie within the frame, and `segment` has room for them.
        unsafe segment.copyMemory(from: frame, byteCount: start)
        unsafe (segment + start).copyMemory(from: frame + position, byteCount: length)
        unsafe adjustTransport(segment)
        unsafe adjustNetwork(segment, length)
        unsafe checksum(segment, length)
        position += length
        number &+= 1
        return start + length
    }

    private func adjustTransport(_ segment: UnsafeMutableRawPointer) {
        let sequence = headers.transport + 4
        let old = unsafe segment.loadUnaligned(fromByteOffset: sequence, as: UInt32.self).byteSwapped
        let new = old &+ UInt32(truncatingIfNeeded: position - start)
        unsafe segment.storeBytes(of: new.byteSwapped, toByteOffset: sequence, as: UInt32.self)
        var flags = unsafe segment.load(fromByteOffset: headers.transport + 13, as: UInt8.self)
        if position + payload < headers.end { flags &= ~(Self.fin | Self.push) }
        if number > 0 { flags &= ~Self.congestionWindowReduced }
        unsafe segment.storeBytes(of: flags, toByteOffset: headers.transport + 13, as: UInt8.self)
    }

    private func adjustNetwork(_ segment: UnsafeMutableRawPointer, _ length: Int) {
        let network = headers.network
        guard headers.ip == .v4 else {
            let bytes = start + length - network - 40
            unsafe FrameHeaders.store16(segment, network + 4, UInt16(truncatingIfNeeded: bytes))
            return
        }
        unsafe FrameHeaders.store16(segment, network + 2, UInt16(truncatingIfNeeded: start + length - network))
        let identification = unsafe FrameHeaders.load16(segment, network + 4)
        unsafe FrameHeaders.store16(segment, network + 4, identification &+ number)
        unsafe segment.storeBytes(of: 0, toByteOffset: network + 10, as: UInt16.self)
        var sum = InternetChecksum()
        let words = unsafe segment.load(fromByteOffset: network, as: UInt8.self) & 15
        unsafe sum.add(segment + network, Int(words) * 4)
        unsafe segment.storeBytes(of: sum.complement, toByteOffset: network + 10, as: UInt16.self)
    }

    private func checksum(_ segment: UnsafeMutableRawPointer, _ length: Int) {
        let bytes = start + length - headers.transport
        var sum = unsafe headers.pseudoHeader(segment, length: bytes)
        let field = headers.transport + TransportProtocol.tcp.checksumOffset
        unsafe segment.storeBytes(of: 0, toByteOffset: field, as: UInt16.self)
        unsafe sum.add(segment + headers.transport, bytes)
        unsafe segment.storeBytes(of: sum.complement, toByteOffset: field, as: UInt16.self)
    }
}
