internal import CXen
internal import Glibc
public import Uring

/// A volume in memory that remembers what would survive a power failure, and fails as it is told.
@safe public final class ModelVolume {
    /// An operation took effect: what happened to the volume, in order.
    public struct Effect: Sendable {
        /// What it was.
        public let kind: OperationKind
        /// Its place in bytes, as far as it was done.
        public let range: Range<UInt64>
        /// The first eight bytes that were written; 0 for anything but a write.
        public let firstWord: UInt64
    }

    /// What goes wrong, in thousandths of the operations that it applies to.
    public struct Faults: Sendable {
        /// Reads and writes that are done in part.
        public var short = 0
        /// Reads and writes that fail with EIO, without effect.
        public var failed = 0
        /// Operations that fail with EAGAIN, without effect.
        public var transient = 0
        /// None.
        public init() {}
    }

    /// Bytes.
    public let size: Int
    /// What offsets and lengths must be multiples of.
    public let block: Int
    /// Random failures.
    public var faults = Faults()
    /// No room: writes fail with ENOSPC.
    public var isFull = false
    /// `synchronize` fails with this errno.
    public var synchronizeError: Int32?
    /// Everything that took effect, unless that is not wanted.
    public private(set) var effects: [Effect] = []
    public var keepsEffects = true
    /// Operations that a kernel would have refused with EINVAL: misaligned, or not within the volume.
    public private(set) var malformed = 0

    private let current: UnsafeMutableRawBufferPointer
    private let durable: UnsafeMutableRawBufferPointer

    /// A volume of zeros.
    public init(size: Int, block: Int = 512) {
        self.size = size
        self.block = block
        unsafe current = Self.zeros(size)
        unsafe durable = Self.zeros(size)
    }

    private static func zeros(_ size: Int) -> UnsafeMutableRawBufferPointer {
        let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
        unsafe memset(base, 0, size)
        return unsafe UnsafeMutableRawBufferPointer(start: base, count: size)
    }

    deinit {
        unsafe current.deallocate()
        unsafe durable.deallocate()
    }

    /// The first eight bytes of a 512-byte sector as reads see it, and as it would be after a power failure.
    public func words(sector: Int) -> (current: UInt64, durable: UInt64) {
        let offset = sector * 512
        precondition(sector >= 0 && offset + 8 <= size)
        return unsafe (
            current.load(fromByteOffset: offset, as: UInt64.self),
            durable.load(fromByteOffset: offset, as: UInt64.self)
        )
    }

    /// Changes what is stored, as if it had always been there: content to start with.
    public func fill(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        unsafe body(current)
        unsafe durable.copyMemory(from: UnsafeRawBufferPointer(current))
    }

    /// Zeroes a range: what a discard may do.
    public func discard(_ range: Range<UInt64>) -> Int32 {
        unsafe discard(range) { memory in
            if let base = memory.baseAddress { unsafe memset(base, 0, memory.count) }
        }
    }

    /// Discards a range, which holds whatever `body` leaves there.
    public func discard(_ range: Range<UInt64>, leaving body: (UnsafeMutableRawBufferPointer) -> Void) -> Int32 {
        guard let first = Int(exactly: range.lowerBound), let end = Int(exactly: range.upperBound), end <= size else {
            return -EINVAL
        }
        unsafe body(UnsafeMutableRawBufferPointer(rebasing: current[first..<end]))
        return 0
    }

    // MARK: For the engine

    /// Lets an operation take effect and returns its result: bytes, or a negative errno. Its buffer is the caller's.
    public func apply(_ operation: IOOperation, _ random: inout SeededRandom) -> Int32 {
        if random.chance(perThousand: faults.transient) { return -EAGAIN }
        if operation.kind == .synchronize { return synchronize() }
        guard let offset = place(operation) else {
            malformed += 1
            return -EINVAL
        }
        if random.chance(perThousand: faults.failed) { return -EIO }
        if operation.kind == .write, isFull { return -ENOSPC }
        let bytes = done(of: Int(operation.length), &random)
        move(operation, offset, bytes)
        return Int32(truncatingIfNeeded: bytes)
    }

    private func synchronize() -> Int32 {
        if let error = synchronizeError { return -error }
        unsafe durable.copyMemory(from: UnsafeRawBufferPointer(current))
        if keepsEffects { effects.append(Effect(kind: .synchronize, range: 0..<0, firstWord: 0)) }
        return 0
    }

    /// Where the operation begins, if a kernel would take it: O_DIRECT's rules.
    private func place(_ operation: IOOperation) -> Int? {
        guard let offset = Int(exactly: operation.offset), offset <= size, operation.length > 0,
            Int(operation.length) <= size - offset, offset % block == 0, Int(operation.length) % block == 0,
            unsafe UInt(bitPattern: operation.buffer) % 512 == 0
        else { return nil }
        return offset
    }

    private func done(of length: Int, _ random: inout SeededRandom) -> Int {
        guard length > block, random.chance(perThousand: faults.short) else { return length }
        return block * (1 + random.below(length / block - 1))
    }

    /// `place` has checked that the range lies within the volume; the queue keeps the buffer until the completion.
    private func move(_ operation: IOOperation, _ offset: Int, _ bytes: Int) {
        guard let buffer = unsafe operation.buffer, let base = unsafe current.baseAddress else { return }
        var word: UInt64 = 0
        if operation.kind == .read {
            unsafe xen_copy_bytes(buffer, base + offset, bytes)
        } else {
            unsafe xen_copy_bytes(base + offset, buffer, bytes)
            word = unsafe buffer.loadUnaligned(as: UInt64.self)
        }
        let range = UInt64(offset)..<UInt64(offset + bytes)
        if keepsEffects { effects.append(Effect(kind: operation.kind, range: range, firstWord: word)) }
    }
}
