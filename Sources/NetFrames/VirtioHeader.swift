/// The header in front of each frame of a TAP device with IFF_VNET_HDR (linux/virtio_net.h, struct virtio_net_hdr), in
/// the processor's own byte order.
public struct VirtioHeader: Equatable, Sendable, BitwiseCopyable {
    public var flags: UInt8 = 0
    public var segmentation: UInt8 = 0
    /// Bytes of the headers that each segment gets.
    public var headerLength: UInt16 = 0
    /// Payload of a segment.
    public var segmentSize: UInt16 = 0
    /// Where the sum begins, and where it goes from there.
    public var checksumStart: UInt16 = 0
    public var checksumOffset: UInt16 = 0

    public init() {}

    /// Of a frame whose sum is complete and right.
    public static var validated: VirtioHeader {
        var header = VirtioHeader()
        header.flags = dataValid
        return header
    }

    /// Bytes on the wire.
    public static let size = 10

    public static let needsChecksum: UInt8 = 1
    public static let dataValid: UInt8 = 2
    public static let none: UInt8 = 0
    public static let tcpV4: UInt8 = 1
    public static let udp: UInt8 = 3
    public static let tcpV6: UInt8 = 4
    public static let udpSegments: UInt8 = 5
    /// In addition: the first segment's CWR bit is not for the others.
    public static let congestion: UInt8 = 0x80

    /// Reads the header at `bytes`, which has `size` of them.
    public init(_ bytes: UnsafeRawPointer) {
        // Ten bytes are there; no field is aligned.
        flags = unsafe bytes.load(as: UInt8.self)
        segmentation = unsafe bytes.load(fromByteOffset: 1, as: UInt8.self)
        headerLength = unsafe bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        segmentSize = unsafe bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
        checksumStart = unsafe bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
        checksumOffset = unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)
    }

    /// Writes it to `bytes`, which has room for `size`.
    public func store(_ bytes: UnsafeMutableRawPointer) {
        // Ten bytes are there.
        unsafe bytes.storeBytes(of: flags, as: UInt8.self)
        unsafe bytes.storeBytes(of: segmentation, toByteOffset: 1, as: UInt8.self)
        unsafe bytes.storeBytes(of: headerLength, toByteOffset: 2, as: UInt16.self)
        unsafe bytes.storeBytes(of: segmentSize, toByteOffset: 4, as: UInt16.self)
        unsafe bytes.storeBytes(of: checksumStart, toByteOffset: 6, as: UInt16.self)
        unsafe bytes.storeBytes(of: checksumOffset, toByteOffset: 8, as: UInt16.self)
    }
}
