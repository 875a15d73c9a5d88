public import Telemetry

/// Why a text is not a JSON document.
public struct JSONError: Error, Equatable, CustomStringConvertible {
    /// Where reading ended, in bytes from the start.
    public let offset: Int
    /// What is wrong there.
    public let problem: String

    public var description: String { "not JSON: \(problem) at byte \(offset)" }
}

extension JSON {
    /// Reads a document (RFC 8259), as fio and other tools print them.
    public init(reading text: String) throws(JSONError) {
        var reader = JSONReader(text)
        self = try reader.document()
    }

    /// An object's member; nil without one.
    public subscript(_ name: String) -> JSON? { members?.first { $0.name == name }?.value }

    /// An array's element; nil beyond its end.
    public subscript(_ index: Int) -> JSON? {
        guard case .array(let elements) = self, elements.indices.contains(index) else { return nil }
        return elements[index]
    }

    /// An object's members in their order.
    public var members: [Member]? {
        guard case .object(let members) = self else { return nil }
        return members
    }

    /// Any number.
    public var double: Double? {
        switch self {
        case .number(let number): Double(number)
        case .decimal(let number): number
        default: nil
        }
    }
}

/// A recursive descent over the document's bytes.
private struct JSONReader {
    private let bytes: [UInt8]
    private var position = 0
    private var depth = 0

    /// Deeper documents are refused: they would exhaust the stack.
    private static let maximumDepth = 64

    init(_ text: String) {
        bytes = Array(text.utf8)
    }

    mutating func document() throws(JSONError) -> JSON {
        let value = try value()
        skipSpace()
        guard position == bytes.count else { throw error("something follows the document") }
        return value
    }

    private mutating func value() throws(JSONError) -> JSON {
        skipSpace()
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.maximumDepth else { throw error("more than \(Self.maximumDepth) levels") }
        switch peek {
        case UInt8(ascii: "{"): return try object()
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .flag(true))
        case UInt8(ascii: "f"): return try word("false", .flag(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    // ---- Containers

    private mutating func object() throws(JSONError) -> JSON {
        var members: [JSON.Member] = []
        try list(UInt8(ascii: "}")) { reader throws(JSONError) in
            reader.skipSpace()
            let name = try reader.string()
            reader.skipSpace()
            try reader.expect(UInt8(ascii: ":"))
            members.append(JSON.Member(name, try reader.value()))
        }
        return .object(members)
    }

    private mutating func array() throws(JSONError) -> JSON {
        var elements: [JSON] = []
        try list(UInt8(ascii: "]")) { reader throws(JSONError) in elements.append(try reader.value()) }
        return .array(elements)
    }

    /// What lies between the bracket that is next and `end`, separated by commas.
    private mutating func list(
        _ end: UInt8, _ element: (inout JSONReader) throws(JSONError) -> Void
    ) throws(JSONError) {
        position += 1
        skipSpace()
        if take(end) { return }
        repeat {
            try element(&self)
            skipSpace()
        } while take(UInt8(ascii: ","))
        try expect(end)
    }

    // ---- Scalars

    private mutating func word(_ word: String, _ value: JSON) throws(JSONError) -> JSON {
        guard bytes[position...].starts(with: word.utf8) else { throw error("no value") }
        position += word.utf8.count
        return value
    }

    private mutating func number() throws(JSONError) -> JSON {
        let start = position
        guard let first = peek, "-0123456789".utf8.contains(first) else { throw error("no value") }
        while let byte = peek, "+-.0123456789Ee".utf8.contains(byte) { position += 1 }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if let number = UInt64(text) { return .number(number) }
        guard let number = Double(text) else {
            position = start
            throw error("no value")
        }
        return .decimal(number)
    }

    private mutating func string() throws(JSONError) -> String {
        try expect(UInt8(ascii: "\""))
        var content: [UInt8] = []
        while let byte = next() {
            switch byte {
            case UInt8(ascii: "\""): return String(decoding: content, as: UTF8.self)
            case UInt8(ascii: "\\"): content += try escaped()
            case ..<0x20: throw error("a control character in a string")
            default: content.append(byte)
            }
        }
        throw error("a string without an end")
    }

    /// What stands behind a backslash.
    private mutating func escaped() throws(JSONError) -> [UInt8] {
        guard let byte = next() else { throw error("a string without an end") }
        switch byte {
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "u"): return Array(String(try scalar()).utf8)
        default: throw error("an unknown escape")
        }
    }

    /// Beyond the basic plane: two escapes, a high and a low surrogate (RFC 8259, section 7).
    private mutating func scalar() throws(JSONError) -> Character {
        var code = try fourDigits()
        if (0xD800..<0xDC00).contains(code) {
            try expect(UInt8(ascii: "\\"))
            try expect(UInt8(ascii: "u"))
            let low = try fourDigits()
            guard (0xDC00..<0xE000).contains(low) else { throw error("half a character") }
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = Unicode.Scalar(code) else { throw error("half a character") }
        return Character(scalar)
    }

    private mutating func fourDigits() throws(JSONError) -> UInt32 {
        let digits = bytes[position...].prefix(4)
        let areHexadecimal = digits.allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
        guard digits.count == 4, areHexadecimal,
            let code = UInt32(String(decoding: digits, as: UTF8.self), radix: 16)
        else {
            throw error("no four hexadecimal digits")
        }
        position += 4
        return code
    }

    // ---- Bytes

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func next() -> UInt8? {
        guard let byte = peek else { return nil }
        position += 1
        return byte
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard peek == byte else { return false }
        position += 1
        return true
    }

    private mutating func expect(_ byte: UInt8) throws(JSONError) {
        guard take(byte) else { throw error("no '\(Character(Unicode.Scalar(byte)))'") }
    }

    private mutating func skipSpace() {
        while let byte = peek, [0x20, 0x09, 0x0A, 0x0D].contains(byte) { position += 1 }
    }

    private func error(_ problem: String) -> JSONError { JSONError(offset: position, problem: problem) }
}
