internal import CLinux
internal import Descriptors
internal import Glibc
public import XenWire

/// What a volume looks like to a guest, and what operations on it must keep to.
public struct Geometry: Equatable, Sendable {
    /// Size when it was opened.
    public var capacity: Sector
    /// The smallest unit that the volume itself addresses, bytes.
    public var logicalBlock: UInt32
    /// The unit that it writes without reading, bytes.
    public var physicalBlock: UInt32
    /// Bytes that offset and length of every operation must be multiples of: the logical block with O_DIRECT, 512
    /// through the page cache.
    public var operationUnit: UInt32
    /// How space can be given back; `nil` where it cannot.
    public var discard: DiscardGeometry?
    /// Written data can be lost before a flush.
    public var hasVolatileCache: Bool

    /// Everything.
    public init(
        capacity: Sector, logicalBlock: UInt32 = 512, physicalBlock: UInt32 = 4096, operationUnit: UInt32 = 512,
        discard: DiscardGeometry? = nil, hasVolatileCache: Bool = true
    ) {
        self.capacity = capacity
        self.logicalBlock = logicalBlock
        self.physicalBlock = physicalBlock
        self.operationUnit = operationUnit
        self.discard = discard
        self.hasVolatileCache = hasVolatileCache
    }
}

/// Which ranges can be discarded, all in bytes.
public struct DiscardGeometry: Equatable, Sendable {
    /// The unit that the volume frees.
    public var granularity: UInt64
    /// Offset of the volume's first whole unit; not 0 on a partition that begins within one.
    public var alignment: UInt64
    /// Longest range of one operation on the volume.
    public var maximum: UInt64

    /// All three.
    public init(granularity: UInt64, alignment: UInt64 = 0, maximum: UInt64) {
        self.granularity = granularity
        self.alignment = alignment
        self.maximum = maximum
    }
}

/// The attributes of a block device under /sys/dev/block.
struct BlockAttributes {
    private let folder: String
    private let queue: String

    init(device: UInt64) {
        folder = "/sys/dev/block/\(linux_device_major(device)):\(linux_device_minor(device))"
        // A partition has no queue of its own; its folder lies in that of the disk.
        let isPartition = Self.text("\(folder)/partition") != nil
        queue = isPartition ? "\(folder)/../queue" : "\(folder)/queue"
    }

    /// `nil` where the device has no discard. `discard_alignment` already counts from the partition's start.
    var discard: DiscardGeometry? {
        guard let maximum = Self.number("\(queue)/discard_max_bytes"), maximum > 0 else { return nil }
        let granularity = max(512, Self.number("\(queue)/discard_granularity") ?? 512)
        let alignment = (Self.number("\(folder)/discard_alignment") ?? 0) % granularity
        return DiscardGeometry(granularity: granularity, alignment: alignment, maximum: maximum)
    }

    /// True unless the kernel says that writes go through.
    var hasVolatileCache: Bool { Self.text("\(queue)/write_cache") != "write through" }

    /// `nil` where the device does not say.
    var logicalBlock: UInt32? { Self.number("\(queue)/logical_block_size").flatMap { UInt32(exactly: $0) } }

    private static func number(_ path: String) -> UInt64? { text(path).flatMap { UInt64($0) } }

    private static func text(_ path: String) -> String? { SystemFile.text(path) }
}

/// Small files of the kernel's.
enum SystemFile {
    /// The first line.
    static func text(_ path: String) -> String? {
        let bytes = unsafe [CChar](unsafeUninitializedCapacity: 4097) { buffer, count in
            guard let base = buffer.baseAddress else { return }
            // At most 4,096 bytes, as much as an attribute has, and a NUL, which is not counted.
            count = max(0, unsafe linux_read_text(path, base, buffer.count))
        }
        guard !bytes.isEmpty else { return nil }
        let line = bytes.prefix { $0 != CChar(UInt8(ascii: "\n")) }
        return String(decoding: line.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
