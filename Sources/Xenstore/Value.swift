/// A node's value as it was read: any bytes at all, for a guest may have written them.
public struct XenstoreValue: Hashable, Sendable {
    public let bytes: [UInt8]

    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The value as text; nil if it is not UTF-8.
    public var text: String? {
        String(validating: bytes, as: UTF8.self)
    }

    /// The value as an unsigned decimal number: digits only (no sign, space or prefix), at most 20 of them, and not
    /// above `maximum`; nil for anything else.
    public func unsigned(atMost maximum: UInt64) -> UInt64? {
        guard (1...20).contains(bytes.count) else { return nil }
        var number: UInt64 = 0
        for byte in bytes {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            let (tens, overflow) = number.multipliedReportingOverflow(by: 10)
            let (sum, carry) = tens.addingReportingOverflow(UInt64(byte &- UInt8(ascii: "0")))
            guard !overflow, !carry else { return nil }
            number = sum
        }
        return number <= maximum ? number : nil
    }

    /// Exactly `0` or `1`; nil for anything else.
    public var flag: Bool? {
        switch bytes {
        case [UInt8(ascii: "0")]: false
        case [UInt8(ascii: "1")]: true
        default: nil
        }
    }
}

extension XenstoreValue: CustomStringConvertible {
    /// Printable ASCII as it is, the rest as `\xNN`, cut after 64 bytes: fit for a log line whatever a guest wrote.
    public var description: String {
        let shown = bytes.prefix(64).map { byte in
            (0x20...0x7e).contains(byte) && byte != UInt8(ascii: "\\")
                ? String(UnicodeScalar(byte)) : "\\x" + XenstoreValue.hexadecimal(byte)
        }
        return shown.joined() + (bytes.count > 64 ? "... (\(bytes.count) bytes)" : "")
    }

    private static func hexadecimal(_ byte: UInt8) -> String {
        (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
}
