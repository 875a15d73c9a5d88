internal import CLinux
public import Descriptors

/// How frames from the host find their queue, as a guest has set it (xen/io/netif.h, "Hash types" and "Control messages").
public struct SteeringTable: Equatable, Sendable {
    /// XEN_NETIF_CTRL_HASH_TYPE_*.
    public var types: UInt32
    /// 40 bytes.
    public var key: [UInt8]
    /// At most 128 queues; empty: the remainder of the hash is the queue.
    public var mapping: [UInt8]
    public var queues: Int

    public init(types: UInt32, key: [UInt8], mapping: [UInt8], queues: Int) {
        self.types = types
        self.key = key
        self.mapping = mapping
        self.queues = queues
    }

    // The map's value: 32-bit words in the processor's order, by their offset in bytes.
    static let typesOffset = 0
    static let sizeOffset = 4
    static let queuesOffset = 8
    static let mappingOffset = 16
    static let halvesOffset = mappingOffset + 4 * 128
    /// Bytes that are hashed at most: two IPv6 addresses and two ports.
    static let bytes = 36
    static let wordCount = halvesOffset / 4 + 2 * bytes * 16

    var words: [UInt32] {
        let table = mapping.map { UInt32($0) } + [UInt32](repeating: 0, count: 128 - min(128, mapping.count))
        let head = [types, UInt32(mapping.count), UInt32(queues), 0]
        return head + table.prefix(128) + (0..<2 * Self.bytes).flatMap { half in (0..<16).map { sum($0, half) } }
    }

    /// What four bits of data at a place add to the hash.
    private func sum(_ bits: Int, _ half: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 ^ (bits & (8 >> $1) == 0 ? 0 : window(4 * half + $1)) }
    }

    /// 32 bits of the key from a bit on.
    private func window(_ bit: Int) -> UInt32 {
        let five = (0..<5).reduce(UInt64(0)) { $0 << 8 | UInt64(bit / 8 + $1 < key.count ? key[bit / 8 + $1] : 0) }
        return UInt32(truncatingIfNeeded: five >> UInt64(8 - bit % 8))
    }
}

/// Has the kernel steer a TAP device's frames as a guest wants it: a frame then comes out of the very queue whose ring it
/// belongs to, and no thread has to hand it to another one.
public final class HashSteering: Sendable {
    private let tap: TapDevice
    private let map: OwnedDescriptor
    private let program: OwnedDescriptor

    /// Loads the program, which does nothing yet.
    ///
    /// - Throws: EPERM without CAP_BPF.
    public init(of tap: TapDevice) throws(Fault) {
        self.tap = tap
        let map = try OwnedDescriptor(
            linux_bpf_array(UInt32(4 * SteeringTable.wordCount)), "make a table for the steering of \(tap.name)")
        let instructions = SteeringProgram(map: map.number).instructions
        // As many as are said, for the length of the call.
        program = try OwnedDescriptor(
            unsafe linux_bpf_load(instructions, UInt32(instructions.count)), "load the steering of \(tap.name)")
        self.map = map
    }

    /// Steers by a table from now on; a frame that comes while it is replaced may still go by a part of the old one.
    public func set(_ table: SteeringTable) throws(Fault) {
        let words = table.words
        // As many words as the map's value has, for the length of the call.
        let result = unsafe linux_bpf_update(map.number, words)
        guard result == 0 else { throw Fault("set the steering of \(tap.name)", errno: -result) }
        try tap.setSteering(program.number)
    }

    /// The queue of a frame, as the kernel finds it: for tests.
    func queue(_ frame: [UInt8]) throws(Fault) -> Int {
        // The kernel takes a link header off before it runs a filter; frames to a TAP device still have theirs.
        let packet = [UInt8](repeating: 0, count: 14) + frame
        // As many bytes as are said, for the length of the call.
        let result = unsafe linux_bpf_run(program.number, packet, UInt32(packet.count))
        guard result >= 0 else { throw Fault("run the steering", errno: -result) }
        return Int(result)
    }
}
