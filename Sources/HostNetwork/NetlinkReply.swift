internal import CLinux

/// One message from the kernel. Lengths in it are believed only as far as there are bytes.
struct NetlinkReply: Equatable {
    let type: UInt16
    let sequence: UInt32
    let payload: ArraySlice<UInt8>

    /// All messages of one datagram, up to the first whose length is impossible.
    static func all(in bytes: [UInt8]) -> [NetlinkReply] {
        var (rest, replies) = (bytes[...], [NetlinkReply]())
        while let reply = NetlinkReply(&rest) { replies.append(reply) }
        return replies
    }

    private init?(_ rest: inout ArraySlice<UInt8>) {
        guard let length = rest.number(at: 0, as: UInt32.self), length >= 16, length <= rest.count,
            let type = rest.number(at: 4, as: UInt16.self), let sequence = rest.number(at: 8, as: UInt32.self)
        else { return nil }
        self.type = type
        self.sequence = sequence
        payload = rest.dropFirst(16).prefix(Int(length) - 16)
        rest = rest.dropFirst((Int(length) + 3) & ~3)
    }

    /// An acknowledgement or an error (struct nlmsgerr): 0, or a positive errno; nil if this is an answer.
    var errorCode: Int32? {
        guard type == UInt16(NLMSG_ERROR) else { return nil }
        guard let code = payload.number(at: 0, as: Int32.self), code <= 0, code > -4096 else { return EPROTO }
        return -code
    }

    /// Nothing more belongs to this dump.
    var isEnd: Bool { type == UInt16(NLMSG_DONE) }

    /// The attributes behind a family's header of so many bytes; of several with one number the first.
    func attributes(after header: Int) -> NetlinkAttributes { NetlinkAttributes(payload.dropFirst(header)) }
}

/// Attributes by their number.
struct NetlinkAttributes {
    private var values: [UInt16: ArraySlice<UInt8>] = [:]

    /// NLA_TYPE_MASK: the other bits say that there are attributes within, and the order of bytes.
    private static let numberMask: UInt16 = 0x3FFF

    init(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while let length = rest.number(at: 0, as: UInt16.self).map(Int.init), length >= 4, length <= rest.count,
            let type = rest.number(at: 2, as: UInt16.self)
        {
            let number = type & Self.numberMask
            if values[number] == nil { values[number] = rest.dropFirst(4).prefix(length - 4) }
            rest = rest.dropFirst((length + 3) & ~3)
        }
    }

    func bytes(_ type: some BinaryInteger) -> ArraySlice<UInt8>? { values[UInt16(truncatingIfNeeded: type)] }
    func number(_ type: some BinaryInteger) -> UInt32? { bytes(type)?.number(at: 0, as: UInt32.self) }
    func nested(_ type: some BinaryInteger) -> NetlinkAttributes { NetlinkAttributes(bytes(type) ?? []) }
    func text(_ type: some BinaryInteger) -> String? {
        bytes(type).map { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}

extension ArraySlice<UInt8> {
    /// A number in the machine's order; nil if there are too few bytes.
    func number<Number: FixedWidthInteger>(at offset: Int, as _: Number.Type) -> Number? {
        let size = Number.bitWidth / 8
        guard offset >= 0, count >= offset + size else { return nil }
        let bytes = dropFirst(offset).prefix(size)
        let bigEndian = bytes.reduce(Number(0)) { $0 << 8 | Number(truncatingIfNeeded: $1) }
        return Number(1).littleEndian == 1 ? bigEndian.byteSwapped : bigEndian
    }
}
