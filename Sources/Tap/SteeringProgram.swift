/// The program with which the kernel finds a frame's queue (linux/bpf.h): Toeplitz over the frame's addresses, and over
/// its ports if it is TCP, then the mapping table. It finds all that a guest has set in one map, `SteeringTable`.
///
/// It hashes as FlowHash does, with one difference: of an IPv6 packet with extension headers it looks at the addresses
/// only.
struct SteeringProgram {
    private(set) var instructions: [UInt64] = []
    /// Where labels are, and which jumps wait for them.
    private var places: [Label: Int] = [:]
    private var jumps: [(index: Int, label: Label)] = []

    private enum Label: Hashable {
        case v4, v4Addresses, v6, v6Addresses, none, hash, hashed, modulo
    }

    /// Registers keep their meaning throughout: 6 is the packet, 7 the table, 8 the hash types, 9 the bytes to hash; 0 and 1
    /// to 5 are the calls'.
    private enum Register: UInt64 {
        case r0, r1, r2, r3, r4, r5, packet, table, types, length, stack
    }

    /// On the stack: the IP header, at most 40 bytes, and what is hashed, at most 36.
    private static let header = -104
    private static let data = -40

    /// - Parameter map: the descriptor of an array map with a `SteeringTable`.
    init(map: Int32) {
        begin(map)
        readV4()
        readV6()
        set(.none)
        move(.r0, 0)
        jump(.hashed)
        hash()
        choose()
        for (index, label) in jumps {
            // All labels are set by now; offsets count from the next instruction.
            let offset = Int16(truncatingIfNeeded: (places[label] ?? 0) - index - 1)
            instructions[index] |= UInt64(UInt16(bitPattern: offset)) << 16
        }
    }

    // MARK: the program

    private mutating func begin(_ map: Int32) {
        move(.packet, .r1)
        // Two instructions for one 64-bit constant: the address of the map's value.
        emit(0x18, .table, source: 2, immediate: map)
        instructions.append(0)
        load(.types, .table, SteeringTable.typesOffset, bytes: 4)
        // What is not filled is read by no path, but the kernel cannot know.
        for offset in stride(from: Self.data, to: 0, by: 8) { emit(0x7A, .stack, offset: offset) }
        fetch(12, 2, to: Self.header, orElse: .none)
        load(.r1, .stack, Self.header, bytes: 2)
        jump(.v4, if: .r1, equals: 0x0008)  // 0x0800 and 0x86DD as a little-endian processor reads them
        jump(.v6, if: .r1, equals: 0xDD86)
        jump(.none)
    }

    private mutating func readV4() {
        set(.v4)
        fetch(14, 20, to: Self.header, orElse: .none)
        load(.length, .stack, Self.header, bytes: 1)
        check(.length, version: 4)
        and(.length, 15)
        shiftLeft(.length, 2)
        emit(0xA5, .length, immediate: 20, to: .none)  // if below
        for offset in [0, 4] { copy(Self.header + 12 + offset, Self.data + offset, bytes: 4) }
        load(.r1, .stack, Self.header + 6, bytes: 2)
        and(.r1, 0xFF3F)  // more fragments, or an offset
        jump(.v4Addresses, if: .r1, isNot: 0)
        load(.r1, .stack, Self.header + 9, bytes: 1)
        jump(.v4Addresses, if: .r1, isNot: 6)
        jump(.v4Addresses, unlessTypesContain: 2)
        move(.r2, .length)
        emit(0x07, .r2, immediate: 14)
        fetchFromSecond(4, to: Self.data + 8, orElse: .v4Addresses)
        move(.length, 12)
        jump(.hash)
        set(.v4Addresses)
        jump(.none, unlessTypesContain: 1)
        move(.length, 8)
        jump(.hash)
    }

    private mutating func readV6() {
        set(.v6)
        fetch(14, 40, to: Self.header, orElse: .none)
        load(.r1, .stack, Self.header, bytes: 1)
        check(.r1, version: 6)
        for offset in stride(from: 0, to: 32, by: 8) { copy(Self.header + 8 + offset, Self.data + offset, bytes: 8) }
        load(.r1, .stack, Self.header + 6, bytes: 1)
        jump(.v6Addresses, if: .r1, isNot: 6)
        jump(.v6Addresses, unlessTypesContain: 8)
        fetch(54, 4, to: Self.data + 32, orElse: .v6Addresses)
        move(.length, 36)
        jump(.hash)
        set(.v6Addresses)
        jump(.none, unlessTypesContain: 4)
        move(.length, 32)
        jump(.hash)
    }

    /// Half a byte at a time, from the table; the ends are those that the paths above have.
    private mutating func hash() {
        set(.hash)
        move(.r0, 0)
        for index in 0..<SteeringTable.bytes {
            if [8, 12, 32].contains(index) { jump(.hashed, if: .length, equals: Int32(index)) }
            load(.r1, .stack, Self.data + index, bytes: 1)
            move(.r2, .r1)
            emit(0x77, .r2, immediate: 4)  // >> 4
            add(.r2, half: 2 * index)
            and(.r1, 15)
            add(.r1, half: 2 * index + 1)
        }
        set(.hashed)
    }

    private mutating func add(_ register: Register, half: Int) {
        shiftLeft(register, 2)
        emit(0x0F, register, source: Register.table.rawValue)
        load(.r3, register, SteeringTable.halvesOffset + 64 * half, bytes: 4)
        emit(0xAF, .r0, source: Register.r3.rawValue)  // ^=
    }

    /// As netif.h has it: the table's entry at the remainder, or the remainder itself.
    private mutating func choose() {
        load(.r1, .table, SteeringTable.sizeOffset, bytes: 4)
        jump(.modulo, if: .r1, equals: 0)
        emit(0x9F, .r0, source: Register.r1.rawValue)  // %=
        and(.r0, 127)  // it is, but the kernel cannot know
        shiftLeft(.r0, 2)
        emit(0x0F, .r0, source: Register.table.rawValue)
        load(.r0, .r0, SteeringTable.mappingOffset, bytes: 4)
        emit(0x95, .r0)
        set(.modulo)
        load(.r1, .table, SteeringTable.queuesOffset, bytes: 4)
        emit(0x9F, .r0, source: Register.r1.rawValue)
        emit(0x95, .r0)
    }

    // MARK: instructions

    /// Code, registers, offset, immediate: struct bpf_insn.
    private mutating func emit(
        _ code: UInt64, _ destination: Register, source: UInt64 = 0, offset: Int = 0, immediate: Int32 = 0
    ) {
        instructions.append(
            code | destination.rawValue << 8 | source << 12
                | UInt64(UInt16(bitPattern: Int16(truncatingIfNeeded: offset))) << 16
                | UInt64(UInt32(bitPattern: immediate)) << 32)
    }

    private mutating func emit(_ code: UInt64, _ register: Register, immediate: Int32, to label: Label) {
        jumps.append((instructions.count, label))
        emit(code, register, immediate: immediate)
    }

    private mutating func set(_ label: Label) { places[label] = instructions.count }
    private mutating func jump(_ label: Label) { emit(0x05, .r0, immediate: 0, to: label) }
    private mutating func jump(_ label: Label, if register: Register, equals value: Int32) {
        emit(0x15, register, immediate: value, to: label)
    }
    private mutating func jump(_ label: Label, if register: Register, isNot value: Int32) {
        emit(0x55, register, immediate: value, to: label)
    }
    private mutating func jump(_ label: Label, unlessTypesContain bit: Int32) {
        move(.r1, .types)
        and(.r1, bit)
        jump(label, if: .r1, equals: 0)
    }

    private mutating func move(_ register: Register, _ value: Int32) { emit(0xB7, register, immediate: value) }
    private mutating func move(_ register: Register, _ other: Register) {
        emit(0xBF, register, source: other.rawValue)
    }
    private mutating func and(_ register: Register, _ value: Int32) { emit(0x57, register, immediate: value) }
    private mutating func shiftLeft(_ register: Register, _ bits: Int32) { emit(0x67, register, immediate: bits) }

    private mutating func load(_ register: Register, _ base: Register, _ offset: Int, bytes: Int) {
        emit(0x61 | Self.width(bytes), register, source: base.rawValue, offset: offset)
    }

    private mutating func copy(_ from: Int, _ to: Int, bytes: Int) {
        load(.r1, .stack, from, bytes: bytes)
        emit(0x63 | Self.width(bytes), .stack, source: Register.r1.rawValue, offset: to)
    }

    private static func width(_ bytes: Int) -> UInt64 {
        switch bytes {
        case 1: 0x10
        case 2: 0x08
        case 8: 0x18
        default: 0
        }
    }

    private mutating func check(_ register: Register, version: Int32) {
        move(.r2, register)
        emit(0x77, .r2, immediate: 4)
        jump(.none, if: .r2, isNot: version)
    }

    /// Copies bytes of the packet to the stack (bpf_skb_load_bytes).
    private mutating func fetch(_ offset: Int32, _ count: Int32, to place: Int, orElse label: Label) {
        move(.r2, offset)
        fetchFromSecond(count, to: place, orElse: label)
    }

    /// The same from where register 2 says.
    private mutating func fetchFromSecond(_ count: Int32, to place: Int, orElse label: Label) {
        move(.r1, .packet)
        move(.r3, .stack)
        emit(0x07, .r3, immediate: Int32(truncatingIfNeeded: place))
        move(.r4, count)
        emit(0x85, .r0, immediate: 26)
        jump(label, if: .r0, isNot: 0)
    }
}
