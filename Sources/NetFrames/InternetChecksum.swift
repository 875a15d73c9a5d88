/// Ones' complement sums (RFC 1071) over private memory.
///
/// Sums are kept in memory order: folding and swapping commute, so what was added as little-endian words is right again
/// when it is stored the same way.
struct InternetChecksum: BitwiseCopyable {
    private var sum: UInt64 = 0

    init() {}

    /// Adds `count` bytes. Every run but the last must have an even length.
    @_noLocks mutating func add(_ bytes: UnsafeRawPointer, _ count: Int) {
        var offset = 0
        // The caller answers for `count` bytes.
        while offset &+ 8 <= count {
            let word = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            sum &+= word & 0xFFFF_FFFF
            sum &+= word >> 32
            offset &+= 8
        }
        while offset &+ 2 <= count {
            sum &+= UInt64(unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            offset &+= 2
        }
        if offset < count { sum &+= UInt64(unsafe bytes.load(fromByteOffset: offset, as: UInt8.self)) }
    }

    /// Adds a 16-bit field as it would lie in memory in network order.
    @_noLocks mutating func add(_ value: UInt16) { sum &+= UInt64(value.byteSwapped) }

    /// The folded sum, in memory order.
    var folded: UInt16 {
        @_noLocks get {
            var rest = sum
            while rest > 0xFFFF { rest = (rest & 0xFFFF) &+ (rest >> 16) }
            return UInt16(truncatingIfNeeded: rest)
        }
    }

    /// What is stored in a header: the complement, in memory order.
    var complement: UInt16 { @_noLocks get { ~folded } }
}
