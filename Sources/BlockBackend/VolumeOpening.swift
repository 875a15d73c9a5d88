internal import CLinux
internal import Descriptors
internal import Glibc
internal import XenWire

/// An open descriptor, and whether it is open with O_DIRECT.
struct OpenedVolume: ~Copyable {
    let descriptor: OwnedDescriptor
    let isDirect: Bool
    /// Where the data is read and written instead.
    let backing: BackingFile?

    /// What reads, writes and flushes go to.
    var data: Int32 {
        switch backing {
        case .some(let backing): backing.descriptor.number
        case .none: descriptor.number
        }
    }

    var backingPath: String? {
        switch backing {
        case .some(let backing): backing.path
        case .none: nil
        }
    }
}

/// The steps of opening a volume that has a path; each checks one rule and names it when it is broken.
struct VolumeOpening {
    let path: String
    let name: String
    let options: VolumeOptions

    /// What the path is, found before it is opened: opening a tape or a watchdog does things.
    func kind() throws(VolumeError) -> Volume.Kind {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { throw failure("cannot be found", errno) }
        return try kind(status.st_mode)
    }

    private func kind(_ mode: mode_t) throws(VolumeError) -> Volume.Kind {
        let what: String
        switch mode & S_IFMT {
        case S_IFBLK: return .blockDevice
        case S_IFREG: return .file
        case S_IFDIR: what = "a directory"
        case S_IFCHR: what = "a character device"
        case S_IFIFO: what = "a pipe"
        case S_IFSOCK: what = "a socket"
        default: what = "of an unknown type"
        }
        throw VolumeError(name, "is \(what); a volume is a block device or a regular file")
    }

    // MARK: Opening

    /// Opens it, with O_DIRECT where that is wanted and possible.
    func open(_ kind: Volume.Kind) throws(VolumeError) -> OpenedVolume {
        let direct = options.direct == .off ? -EINVAL : openOnce(linux_o_direct)
        // EINVAL: the file system has no direct I/O (open(2)).
        if direct == -EINVAL && options.direct == .on {
            throw VolumeError(name, "has no direct I/O (O_DIRECT); use --direct auto or 0")
        }
        let number = direct == -EINVAL ? openOnce(0) : direct
        guard number >= 0 else { throw failure("cannot be opened", -number) }
        let descriptor = OwnedDescriptor(owning: number)
        try check(descriptor, is: kind)
        do throws(Fault) {
            return try finished(descriptor, isDirect: direct >= 0)
        } catch {
            throw VolumeError(name, "is a loop device whose file cannot be opened: \(error)")
        }
    }

    private func finished(
        _ descriptor: consuming OwnedDescriptor, isDirect: Bool
    ) throws(Fault) -> OpenedVolume {
        var status = stat()
        guard options.loopFiles, !options.isReadOnly, unsafe fstat(descriptor.number, &status) == 0,
            let backing = try BackingFile(
                behind: descriptor.number, number: UInt64(status.st_rdev), direct: options.direct)
        else { return OpenedVolume(descriptor: descriptor, isDirect: isDirect, backing: nil) }
        let isDirect = backing.isDirect
        return OpenedVolume(descriptor: descriptor, isDirect: isDirect, backing: backing)
    }

    /// O_NONBLOCK until the type is known to be right: should the path have become a pipe meanwhile, open would block.
    private func openOnce(_ flags: Int32) -> Int32 {
        unsafe linux_open(path, (options.isReadOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK | flags, 0)
    }

    private func check(_ descriptor: borrowing OwnedDescriptor, is kind: Volume.Kind) throws(VolumeError) {
        var status = stat()
        guard unsafe fstat(descriptor.number, &status) == 0 else { throw failure("cannot be examined", errno) }
        guard try self.kind(status.st_mode) == kind else { throw VolumeError(name, "changed while it was opened") }
        // io_uring answers EAGAIN instead of waiting where O_NONBLOCK is set.
        let result = linux_set_blocking(descriptor.number)
        guard result == 0 else { throw failure("cannot be set to blocking", -result) }
        if kind == .blockDevice && !options.isReadOnly && linux_block_is_read_only(descriptor.number) != 0 {
            throw VolumeError(name, "is a read-only device; it can only be attached read-only")
        }
    }

    // MARK: Geometry

    func geometry(
        of opened: borrowing OpenedVolume, _ kind: Volume.Kind
    ) throws(VolumeError) -> Geometry {
        let descriptor = opened.descriptor.number
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw failure("cannot be examined", errno) }
        let capacity = try checkedCapacity(descriptor, kind)
        return kind == .file
            ? fileGeometry(descriptor, status, capacity, isDirect: opened.isDirect)
            : try deviceGeometry(opened, status, capacity)
    }

    private func checkedCapacity(_ descriptor: Int32, _ kind: Volume.Kind) throws(VolumeError) -> Sector {
        let bytes: UInt64
        do throws(Fault) {
            bytes = try Self.bytes(descriptor, kind, name)
        } catch {
            throw failure("has no size", error.code)
        }
        guard bytes > 0 else { throw VolumeError(name, "is empty; a volume holds at least one sector of 512 bytes") }
        guard bytes % Sector.size == 0 else {
            throw VolumeError(name, "has \(bytes) bytes, which is not a multiple of 512")
        }
        return Sector(bytes / Sector.size)
    }

    static func bytes(_ descriptor: Int32, _ kind: Volume.Kind, _ name: String) throws(Fault) -> UInt64 {
        if kind == .blockDevice {
            var bytes: UInt64 = 0
            let result = unsafe linux_block_capacity(descriptor, &bytes)
            guard result == 0 else { throw Fault("size of \(name)", errno: -result) }
            return bytes
        }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw Fault("size of \(name)", errno: errno) }
        return UInt64(max(0, status.st_size))
    }

    private func deviceGeometry(
        _ opened: borrowing OpenedVolume, _ status: stat, _ capacity: Sector
    ) throws(VolumeError) -> Geometry {
        let descriptor = opened.descriptor.number
        var logical: UInt32 = 0
        var physical: UInt32 = 0
        let result = unsafe linux_block_sizes(descriptor, &logical, &physical)
        guard result == 0 else { throw failure("does not tell its block size", -result) }
        guard logical >= 512 && logical.nonzeroBitCount == 1 && logical <= 65536 else {
            throw VolumeError(name, "has blocks of \(logical) bytes; a power of two from 512 to 65536 is needed")
        }
        let attributes = BlockAttributes(device: UInt64(status.st_rdev))
        return Geometry(
            capacity: capacity, logicalBlock: logical, physicalBlock: max(physical, logical),
            operationUnit: opened.isDirect ? max(logical, Self.directUnit(behind: opened) ?? 0) : 512,
            discard: options.isReadOnly ? nil : attributes.discard,
            hasVolatileCache: attributes.hasVolatileCache)
    }

    private func fileGeometry(
        _ descriptor: Int32, _ status: stat, _ capacity: Sector, isDirect: Bool
    ) -> Geometry {
        // A file system's own block, from which it also frees space; never less than a sector.
        let block = UInt32(exactly: status.st_blksize).map { min(max($0, 512), 1 << 20) } ?? 4096
        return Geometry(
            capacity: capacity, logicalBlock: 512, physicalBlock: block,
            operationUnit: isDirect ? Self.directUnit(descriptor, status) : 512,
            discard: options.isReadOnly ? nil : Self.holes(descriptor, capacity, block), hasVolatileCache: true)
    }

    private static func directUnit(behind opened: borrowing OpenedVolume) -> UInt32? {
        var status = stat()
        guard opened.data != opened.descriptor.number, unsafe fstat(opened.data, &status) == 0 else { return nil }
        return directUnit(opened.data, status)
    }

    /// What the file system says, else the block of the device below it, else 4,096, which suits all of them.
    private static func directUnit(_ descriptor: Int32, _ status: stat) -> UInt32 {
        let told = linux_direct_alignment(descriptor)
        if told > 0 { return max(512, UInt32(told)) }
        return max(512, BlockAttributes(device: UInt64(status.st_dev)).logicalBlock ?? 4096)
    }

    /// Punching beyond the end with KEEP_SIZE changes nothing and tells whether the file system can.
    private static func holes(_ descriptor: Int32, _ capacity: Sector, _ block: UInt32) -> DiscardGeometry? {
        guard linux_punch_hole(descriptor, capacity.rawValue &* Sector.size, UInt64(block)) == 0 else { return nil }
        return DiscardGeometry(granularity: UInt64(block), maximum: 1 << 40)
    }

    private func failure(_ what: String, _ code: Int32) -> VolumeError {
        VolumeError(name, "\(what): \(Fault("", errno: code).description.dropFirst(2))")
    }
}
