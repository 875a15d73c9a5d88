/// What is said of addresses outside the data path.
extension AddressRange: CustomStringConvertible {
    /// One address.
    public var isSingle: Bool { length == bytes.count * 8 }

    /// The same range by its first address.
    public var network: AddressRange {
        AddressRange(bytes: zip(bytes, mask).map { $0 & $1 }, length: length) ?? self
    }

    /// All of them are in the other one, too.
    public func isWithin(_ other: AddressRange) -> Bool {
        bytes.count == other.bytes.count && length >= other.length
            && zip(zip(bytes, other.bytes), other.mask).allSatisfy { ($0.0 ^ $0.1) & $1 == 0 }
    }

    /// Some address is in both.
    public func overlaps(_ other: AddressRange) -> Bool { isWithin(other) || other.isWithin(self) }

    private var mask: [UInt8] {
        bytes.indices.map { UInt8(truncatingIfNeeded: 0xFF00 >> max(0, min(8, length - 8 * $0))) }
    }

    /// As it is written: `10.0.0.0/8`, `fd00::1`.
    public var description: String { (isV4 ? dotted : grouped) + (isSingle ? "" : "/\(length)") }

    private var dotted: String { bytes.map { String($0) }.joined(separator: ".") }

    /// RFC 5952: the longest run of zeros, if it is of more than one group, is left out.
    private var grouped: String {
        let groups = stride(from: 0, to: bytes.count, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
        let runs = groups.indices.map { start in groups[start...].prefix { $0 == 0 }.count }
        let text = groups.map { String($0, radix: 16) }
        guard let longest = runs.max(), longest > 1, let start = runs.firstIndex(of: longest) else {
            return text.joined(separator: ":")
        }
        return text[..<start].joined(separator: ":") + "::" + text[(start + longest)...].joined(separator: ":")
    }
}
