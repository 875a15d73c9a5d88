/// CRC-32C (Castagnoli, RFC 3720), eight bytes at a time by tables.
enum CRC32C {
    private static let tables: [UInt32] = makeTables()

    /// Continues a checksum; it starts with ~0 and is inverted at the end.
    static func update(_ checksum: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        unsafe tables.withUnsafeBufferPointer { tables in
            var state = checksum
            var offset = 0
            // Offsets stay within `bytes`, table indices below 8 * 256.
            while offset &+ 8 <= bytes.count {
                let word = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ UInt64(state)
                state = 0
                for index in 0..<8 {
                    let byte = Int(truncatingIfNeeded: word >> UInt64(index &* 8)) & 0xff
                    state ^= unsafe tables[(7 &- index) &* 256 &+ byte]
                }
                offset &+= 8
            }
            while offset < bytes.count {
                state = unsafe tables[Int(truncatingIfNeeded: (state ^ UInt32(bytes[offset])) & 0xff)] ^ state >> 8
                offset &+= 1
            }
            return state
        }
    }

    private static func makeTables() -> [UInt32] {
        var tables = (0..<256 as Range<UInt32>).map { byte in
            (0..<8).reduce(byte) { state, _ in state & 1 == 1 ? state >> 1 ^ 0x82f6_3b78 : state >> 1 }
        }
        for index in 256..<8 * 256 {
            let before = tables[index - 256]
            tables.append(tables[Int(before & 0xff)] ^ before >> 8)
        }
        return tables
    }
}

/// MD5 (RFC 1321), for verification that people compare with fio's; not for security.
struct MD5 {
    private var state: (UInt32, UInt32, UInt32, UInt32) = (0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476)
    private var pending: [UInt8] = []
    private var length: UInt64 = 0

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        unsafe pending.append(contentsOf: bytes)
        length &+= UInt64(bytes.count)
        var offset = 0
        while pending.count - offset >= 64 {
            block(pending[offset..<offset + 64])
            offset += 64
        }
        pending.removeFirst(offset)
    }

    /// The digest, as two little-endian words.
    mutating func finish() -> (UInt64, UInt64) {
        let bits = length &* 8
        pending.append(0x80)
        while pending.count % 64 != 56 { pending.append(0) }
        for shift in stride(from: 0, to: 64, by: 8) { pending.append(UInt8(truncatingIfNeeded: bits >> UInt64(shift))) }
        for offset in stride(from: 0, to: pending.count, by: 64) { block(pending[offset..<offset + 64]) }
        return (UInt64(state.0) | UInt64(state.1) << 32, UInt64(state.2) | UInt64(state.3) << 32)
    }

    private mutating func block(_ bytes: ArraySlice<UInt8>) {
        let start = bytes.startIndex
        let words = (0..<16).map { word in
            (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[start + word * 4 + $1]) << UInt32($1 * 8) }
        }
        var (a, b, c, d) = state
        for step in 0..<64 {
            let (mix, word) = Self.round(step, b, c, d)
            let sum = a &+ mix &+ Self.sines[step] &+ words[word]
            (a, d, c) = (d, c, b)
            let turn = Self.turns[step / 16 * 4 + step % 4]
            b = b &+ (sum << turn | sum >> (32 - turn))
        }
        state = (state.0 &+ a, state.1 &+ b, state.2 &+ c, state.3 &+ d)
    }

    private static func round(_ step: Int, _ b: UInt32, _ c: UInt32, _ d: UInt32) -> (mix: UInt32, word: Int) {
        switch step / 16 {
        case 0: (b & c | ~b & d, step)
        case 1: (d & b | ~d & c, (5 * step + 1) % 16)
        case 2: (b ^ c ^ d, (3 * step + 5) % 16)
        default: (c ^ (b | ~d), 7 * step % 16)
        }
    }

    private static let turns: [UInt32] = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21]
    /// floor(2^32 * abs(sin(i + 1))), RFC 1321 section 3.4.
    private static let sines: [UInt32] = [
        0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
        0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
        0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
        0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
        0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
        0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
        0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
        0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
    ]
}
