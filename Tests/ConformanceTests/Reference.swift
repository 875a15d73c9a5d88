import CXenReference
import XenWire

extension BlockABI {
    /// ring.h and blkif.h as this ABI compiles them.
    var reference: reference_abi {
        unsafe (self == .native ? reference_native() : reference_x86_32()).pointee
    }
}

/// Zeroed memory in the role of a ring's shared pages.
@safe struct SharedPages: ~Copyable {
    let base: UnsafeMutableRawPointer
    let bytes: Int

    init(_ pages: Int) {
        bytes = pages * 4096
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    }

    deinit { unsafe base.deallocate() }

    /// Offsets beyond the memory are a mistake of the test and stop it.
    func load(_ offset: Int) -> UInt32 {
        precondition(offset >= 0 && offset + 4 <= bytes)
        return unsafe base.load(fromByteOffset: offset, as: UInt32.self)
    }

    func store(_ value: UInt32, _ offset: Int) {
        precondition(offset >= 0 && offset + 4 <= bytes)
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: UInt32.self)
    }
}

/// Sebastiano Vigna's splitmix64: small, and the same on every machine.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
