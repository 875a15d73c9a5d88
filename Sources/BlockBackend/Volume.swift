internal import CLinux
public import Descriptors
internal import Glibc
public import XenWire

/// Whether I/O goes around the page cache.
public enum DirectMode: String, CaseIterable, Sendable {
    /// Where the volume can.
    case auto
    case on = "1"
    case off = "0"
}

/// How a volume is opened.
public struct VolumeOptions: Sendable {
    /// Nothing is ever written to it.
    public var isReadOnly: Bool
    /// O_DIRECT.
    public var direct: DirectMode
    /// A loop device is served as the file behind it, where that is the same.
    public var loopFiles: Bool
    /// The size of `null`.
    public var nullCapacity: Sector

    /// All of them.
    public init(
        isReadOnly: Bool = false, direct: DirectMode = .auto, loopFiles: Bool = true,
        nullCapacity: Sector = Sector(1 << 27)
    ) {
        self.isReadOnly = isReadOnly
        self.direct = direct
        self.loopFiles = loopFiles
        self.nullCapacity = nullCapacity
    }
}

/// What a guest's disk is stored on: a block device, a regular file, or nothing; open for as long as the value lives.
public final class Volume: Sendable {
    /// What a volume is.
    public enum Kind: Sendable {
        case blockDevice, file, null
    }

    /// As the administrator wrote it.
    public let name: String
    /// What it is.
    public let kind: Kind
    /// Nothing is ever written to it; the descriptor is open for reading only.
    public let isReadOnly: Bool
    /// I/O goes around the page cache.
    public let isDirect: Bool
    /// Sizes and limits when it was opened.
    public let geometry: Geometry
    /// The open descriptor, or -1 of `null`.
    public let descriptor: Int32
    /// What reads, writes and flushes go to: `descriptor`, or the file behind a loop device.
    public let data: Int32
    /// The path of the file behind a loop device, if that is what is read and written.
    public let backingFile: String?
    /// Reads and writes never wait for a device.
    public let isInMemory: Bool
    private let opened: OpenedVolume?

    /// Opens what `name` names (a path, `VG/LV` or `null`).
    public convenience init(_ name: String, _ options: VolumeOptions = VolumeOptions()) throws(VolumeError) {
        switch try VolumeSpecification(name) {
        case .null:
            self.init(null: options)
        case .paths(let paths):
            let path = paths.first { unsafe access($0, F_OK) == 0 } ?? paths[0]
            try self.init(path: path, name: name, options)
        }
    }

    private init(null options: VolumeOptions) {
        name = "null"
        kind = .null
        isReadOnly = options.isReadOnly
        isDirect = false
        geometry = Geometry(capacity: options.nullCapacity, hasVolatileCache: false)
        descriptor = -1
        data = -1
        backingFile = nil
        isInMemory = false
        opened = nil
    }

    private init(path: String, name: String, _ options: VolumeOptions) throws(VolumeError) {
        let opening = VolumeOpening(path: path, name: name, options: options)
        let kind = try opening.kind()
        let opened = try opening.open(kind)
        geometry = try opening.geometry(of: opened, kind)
        self.name = name
        self.kind = kind
        isDirect = opened.isDirect
        isReadOnly = options.isReadOnly
        descriptor = opened.descriptor.number
        data = opened.data
        backingFile = opened.backingPath
        isInMemory = linux_is_in_memory(opened.data) != 0
        self.opened = consume opened
    }

    /// What tells it from other volumes of this host, while the host is up: a path may lead to another one later.
    func identity() throws(Fault) -> VolumeIdentity {
        guard kind != .null else { return VolumeIdentity(volume: "null", data: "null", path: "") }
        return VolumeIdentity(
            volume: try VolumeIdentity.name(of: descriptor), data: try VolumeIdentity.name(of: data),
            path: VolumeIdentity.path(of: data))
    }

    /// Bytes that must be changed by one request at a time, a power of two: of what is read, modified and written back.
    var changeUnit: UInt32 {
        let unit = kind == .blockDevice ? max(geometry.physicalBlock, geometry.operationUnit) : geometry.operationUnit
        return unit.nonzeroBitCount == 1 ? unit : 4096
    }

    /// The size now: a volume can be resized while it is served.
    public func refreshCapacity() throws(Fault) -> Sector {
        switch kind {
        case .null: geometry.capacity
        case .blockDevice, .file: Sector(try VolumeOpening.bytes(descriptor, kind, name) / Sector.size)
        }
    }
}
