/// What libFuzzer has thought of, read from its beginning to its end; behind that come zeroes.
struct FuzzInput {
    private var bytes: ArraySlice<UInt8>

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = unsafe Array(bytes)[...] }

    var isEmpty: Bool { bytes.isEmpty }

    mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }

    /// Little-endian.
    mutating func half() -> Int { Int(byte()) | Int(byte()) << 8 }

    mutating func word() -> UInt32 { UInt32(half()) | UInt32(half()) << 16 }

    /// What is left, and not more than so many bytes of it.
    mutating func rest(_ limit: Int) -> [UInt8] {
        defer { bytes = [] }
        return Array(bytes.prefix(limit))
    }
}
