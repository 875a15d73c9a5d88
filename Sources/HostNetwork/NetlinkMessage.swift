internal import CLinux

/// Part of a netlink message: a number, and bytes or further attributes (netlink(7), struct nlattr).
struct NetlinkAttribute: Equatable {
    /// Header, value and padding.
    let bytes: [UInt8]

    /// - Parameter value: at most 65,531 bytes.
    init(_ type: some BinaryInteger, _ value: [UInt8]) {
        let header =
            NetlinkBytes.of(UInt16(clamping: value.count + 4)) + NetlinkBytes.of(UInt16(truncatingIfNeeded: type))
        bytes = NetlinkBytes.padded(header + value)
    }

    /// A number in the machine's order, as rtnetlink has them.
    init(_ type: some BinaryInteger, _ number: UInt32) { self.init(type, NetlinkBytes.of(number)) }

    /// A number in the network's order, as nftables has them.
    init(_ type: some BinaryInteger, bigEndian number: UInt32) { self.init(type, NetlinkBytes.of(number.bigEndian)) }

    init(_ type: some BinaryInteger, _ text: String) { self.init(type, Array(text.utf8) + [0]) }

    init(_ type: some BinaryInteger, _ parts: [NetlinkAttribute]) {
        self.init(Int32(truncatingIfNeeded: type) | NLA_F_NESTED, parts.flatMap(\.bytes))
    }
}

/// A request to the kernel (netlink(7), struct nlmsghdr).
struct NetlinkMessage: Equatable {
    let type: UInt16
    let flags: UInt16
    /// The family's own header and the attributes.
    let payload: [UInt8]

    /// - Parameter flags: `NLM_F_*`, without those that say how it is answered.
    init(_ type: UInt16, flags: Int32 = 0, _ header: [UInt8], _ attributes: [NetlinkAttribute] = []) {
        self.type = type
        self.flags = UInt16(truncatingIfNeeded: flags | NLM_F_REQUEST)
        payload = NetlinkBytes.padded(header) + attributes.flatMap(\.bytes)
    }

    /// The whole message. The sender's number is left to the kernel.
    func bytes(_ more: Int32 = 0, sequence: UInt32) -> [UInt8] {
        NetlinkBytes.of(UInt32(payload.count + 16)) + NetlinkBytes.of(type)
            + NetlinkBytes.of(flags | UInt16(truncatingIfNeeded: more)) + NetlinkBytes.of(sequence)
            + NetlinkBytes.of(UInt32(0)) + payload
    }
}

enum NetlinkBytes {
    /// In the machine's order.
    static func of<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
        let little = (0..<Number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number.littleEndian >> ($0 * 8)) }
        return Number(1).littleEndian == 1 ? little : little.reversed()
    }

    /// To a multiple of four.
    static func padded(_ bytes: [UInt8]) -> [UInt8] {
        bytes + [UInt8](repeating: 0, count: (4 - bytes.count % 4) % 4)
    }
}
