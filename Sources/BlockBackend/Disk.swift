public import Xenbus
internal import Xenstore

/// What the toolstack and the hotplug script say about a disk in the backend's directory. The guest cannot write there.
public struct DiskSettings: Equatable, Sendable {
    /// What to open: a path, `VG/LV`, or `null`.
    public let volume: String
    public let isWritable: Bool
    public let isCDROM: Bool
    public let isRemovable: Bool
    /// `discard-enable`; writable disks only.
    public let allowsDiscard: Bool
    /// `write-space-policy`: hold writes while the volume is full instead of failing them.
    public let pausesWhenFull: Bool

    public static let keys = [
        "mode", "device-type", "removable", "discard-enable", "params", "physical-device", "physical-device-path",
        "write-space-policy",
    ]

    /// Judges the keys.
    public init(_ keys: NodeValues) throws(KeyRefusal) {
        let reader = KeyReader(keys)
        isWritable = try Self.isWritable(keys["mode"])
        isCDROM = try reader.word("device-type", of: ["disk", "cdrom"], ifMissing: "disk") == "cdrom"
        isRemovable = try reader.flag("removable", ifMissing: false)
        allowsDiscard = try reader.flag("discard-enable", ifMissing: true) && isWritable
        pausesWhenFull = try reader.word("write-space-policy", of: ["pause", "error"], ifMissing: "pause") == "pause"
        volume = try Self.volume(keys)
    }

    /// `r`, `w`, or `w!`, by which the block script is told not to check for sharing.
    private static func isWritable(_ value: XenstoreValue?) throws(KeyRefusal) -> Bool {
        switch value?.text {
        case "r", "r!": return false
        case "w", "w!", "rw": return true
        default: throw KeyRefusal("mode", value, "must be r or w")
        }
    }

    /// The script's word counts before the toolstack's: it knows what it has made of the parameters.
    private static func volume(_ keys: NodeValues) throws(KeyRefusal) -> String {
        if let path = keys["physical-device-path"] { return try text("physical-device-path", path) }
        if let device = keys["physical-device"] { return try blockDevice(device) }
        guard let parameters = keys["params"] else {
            throw KeyRefusal("params", nil, "must name a volume, as there is no physical-device-path")
        }
        return try withoutFormat(text("params", parameters), parameters)
    }

    private static func text(_ key: String, _ value: XenstoreValue) throws(KeyRefusal) -> String {
        guard let text = value.text, !text.isEmpty, !text.utf8.contains(0), text.utf8.count < 4096 else {
            throw KeyRefusal(key, value, "must name a volume")
        }
        return text
    }

    /// `major:minor`, both hexadecimal (the block script's `write_dev`).
    private static func blockDevice(_ value: XenstoreValue) throws(KeyRefusal) -> String {
        let parts = (value.text ?? "").split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let major = hexadecimal(parts[0]), let minor = hexadecimal(parts[1]) else {
            throw KeyRefusal("physical-device", value, "must be major:minor in hexadecimal")
        }
        return "/dev/block/\(major):\(minor)"
    }

    private static func hexadecimal(_ digits: Substring) -> UInt32? {
        digits.utf8.allSatisfy { $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") } ? UInt32(digits, radix: 16) : nil
    }

    /// libxl puts the format before the path; only raw data is served, and a format is never guessed.
    private static func withoutFormat(_ text: String, _ value: XenstoreValue) throws(KeyRefusal) -> String {
        guard !text.hasPrefix("/"), let colon = text.firstIndex(of: ":") else { return text }
        let path = String(text[text.index(after: colon)...])
        guard ["raw", "aio", "phy"].contains(text[..<colon]), !path.isEmpty else {
            throw KeyRefusal("params", value, "must be a raw volume")
        }
        return path
    }
}

/// What a frontend is told about the disk behind the device.
public struct DiskDescription: Equatable, Sendable {
    /// Capacity in 512-byte sectors, a multiple of `sectorSize`.
    public let sectors: UInt64
    /// `sector-size`, bytes: what requests must be aligned to.
    public let sectorSize: Int
    /// `physical-sector-size`, bytes: what requests had better be aligned to.
    public let physicalSectorSize: Int
    public var isReadOnly: Bool
    public var isCDROM: Bool
    public var isRemovable: Bool
    public var offersFlush: Bool
    public var offersBarrier: Bool
    /// Bytes; nil where discards are not offered.
    public var discard: Discard?

    /// What discards are best aligned to.
    public struct Discard: Equatable, Sendable {
        public let granularity: UInt64
        public let alignment: UInt64

        public init(granularity: UInt64, alignment: UInt64) {
            self.granularity = granularity
            self.alignment = alignment
        }
    }

    /// Brings the sizes in line: capacity down to whole sectors, and a physical sector that fits into it (blkif.h:
    /// `sectors` times 512 is a multiple of `physical-sector-size`).
    public init(
        capacity: UInt64, sectorSize: Int, physicalBlock: Int, isReadOnly: Bool, isCDROM: Bool = false,
        isRemovable: Bool = false, offersFlush: Bool = true, offersBarrier: Bool = false, discard: Discard? = nil
    ) {
        let unit = UInt64(max(sectorSize / 512, 1))
        sectors = capacity / unit * unit
        self.sectorSize = sectorSize
        let fits = physicalBlock >= sectorSize && physicalBlock % 512 == 0 && sectors % UInt64(physicalBlock / 512) == 0
        physicalSectorSize = fits ? physicalBlock : sectorSize
        self.isReadOnly = isReadOnly
        self.isCDROM = isCDROM
        self.isRemovable = isRemovable
        self.offersFlush = offersFlush
        self.offersBarrier = offersBarrier && !isReadOnly
        self.discard = isReadOnly ? nil : discard
    }

    /// The nodes. `sectors`, `sector-size` and `info` are what blkfront insists on.
    public var keys: [PublishedKey] {
        [
            PublishedKey("sectors", sectors), PublishedKey("sector-size", sectorSize),
            PublishedKey("physical-sector-size", physicalSectorSize), PublishedKey("info", info),
            PublishedKey("feature-flush-cache", offersFlush ? 1 : 0),
        ] + (offersBarrier ? [PublishedKey("feature-barrier", 1)] : []) + discardKeys
    }

    /// The nodes that say how large the disk is.
    var sizeKeys: [PublishedKey] {
        [PublishedKey("sectors", sectors), PublishedKey("physical-sector-size", physicalSectorSize)]
    }

    /// The same disk with another capacity.
    func resized(to capacity: UInt64, physicalBlock: Int) -> DiskDescription {
        DiskDescription(
            capacity: capacity, sectorSize: sectorSize, physicalBlock: physicalBlock, isReadOnly: isReadOnly,
            isCDROM: isCDROM, isRemovable: isRemovable, offersFlush: offersFlush, offersBarrier: offersBarrier,
            discard: discard)
    }

    /// VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY (io/blkif.h).
    private var info: Int { (isCDROM ? 1 : 0) | (isRemovable ? 2 : 0) | (isReadOnly ? 4 : 0) }

    /// Granularity and alignment only together: frontends read both or neither.
    private var discardKeys: [PublishedKey] {
        guard let discard else { return [] }
        return [
            PublishedKey("feature-discard", 1), PublishedKey("discard-granularity", discard.granularity),
            PublishedKey("discard-alignment", discard.alignment), PublishedKey("discard-secure", 0),
        ]
    }
}
