import CLinux
import Descriptors
import Glibc
import Testing
import XenWire

@testable import BlockBackend

@Suite struct VolumeTests {
    @Test(arguments: [
        ("null", VolumeSpecification.null),
        ("/dev/sda", .paths(["/dev/sda"])),
        ("vg0/disk", .paths(["/dev/vg0/disk", "/dev/mapper/vg0-disk", "vg0/disk"])),
        ("a-b/c--d", .paths(["/dev/a-b/c--d", "/dev/mapper/a--b-c----d", "a-b/c--d"])),
        ("disk.img", .paths(["disk.img"])),
        ("./disk.img", .paths(["./disk.img"])),
        ("../disk.img", .paths(["../disk.img"])),
        ("-vg/lv", .paths(["-vg/lv"])),
        ("vg/", .paths(["vg/"])),
        ("a/b/c", .paths(["a/b/c"])),
        ("vg/l v", .paths(["vg/l v"])),
    ])
    func namesMeanOneThing(name: String, meaning: VolumeSpecification) throws {
        #expect(try VolumeSpecification(name) == meaning)
    }

    @Test func aFileIsAVolume() throws {
        let file = try ScratchFile(size: 3 << 20)
        let volume = try Volume(file.path, VolumeOptions(direct: .off))
        #expect(volume.kind == .file)
        #expect(!volume.isDirect && !volume.isReadOnly)
        #expect(volume.geometry.capacity == Sector(3 << 11))
        #expect(volume.geometry.logicalBlock == 512)
        #expect(volume.geometry.operationUnit == 512)
        #expect(volume.geometry.hasVolatileCache)
        #expect(fcntl(volume.descriptor, F_GETFL) & O_NONBLOCK == 0)
        try file.truncate(to: 5 << 20)
        #expect(try volume.refreshCapacity() == Sector(5 << 11))
    }

    @Test func directIsTheDefaultWhereItWorks() throws {
        let file = try ScratchFile(size: 1 << 20)
        let plain = unsafe linux_open(file.path, O_RDWR | linux_o_direct, 0)
        close(plain)
        let volume = try Volume(file.path)
        #expect(volume.isDirect == (plain >= 0))
        #expect((fcntl(volume.descriptor, F_GETFL) & linux_o_direct != 0) == volume.isDirect)
        #expect(volume.geometry.operationUnit >= 512)
    }

    @Test func aReadOnlyVolumeCannotBeWritten() throws {
        let file = try ScratchFile(size: 1 << 20)
        let volume = try Volume(file.path, VolumeOptions(isReadOnly: true))
        #expect(volume.isReadOnly)
        #expect(volume.geometry.discard == nil)
        #expect(fcntl(volume.descriptor, F_GETFL) & O_ACCMODE == O_RDONLY)
    }

    @Test func nullIsAsLargeAsAsked() throws {
        let volume = try Volume("null", VolumeOptions(nullCapacity: Sector(1 << 31)))
        #expect(volume.kind == .null && volume.descriptor == -1)
        #expect(try volume.refreshCapacity() == Sector(1 << 31))
    }

    @Test(arguments: [
        ("", "its name is empty"), ("/dev/null", "is a character device"), ("/", "is a directory"),
        ("/nonexistent/disk", "cannot be found: No such file or directory"),
        ("no-such-vg/no-such-lv", "cannot be found"),
        ("disk\0", "NUL"),
    ])
    func whatIsNoVolumeIsNamed(name: String, rule: String) throws {
        let error = #expect(throws: VolumeError.self) { try Volume(name) }
        let text = try #require(error).description
        #expect(text.contains(rule), "\(text)")
        #expect(!text.contains("\n"))
    }

    @Test(arguments: [(0, "is empty"), (1000, "has 1000 bytes, which is not a multiple of 512")])
    func oddFilesAreRefused(size: Int, rule: String) throws {
        let file = try ScratchFile(size: size)
        let error = #expect(throws: VolumeError.self) { try Volume(file.path) }
        let text = try #require(error).description
        #expect(text.hasPrefix("volume \(file.path): \(rule)"), "\(text)")
    }

    @Test func aPipeDoesNotBlock() throws {
        let file = try ScratchFile(size: 0)
        _ = unsafe unlink(file.path)
        try #require(unsafe mkfifo(file.path, 0o600) == 0)
        let error = #expect(throws: VolumeError.self) { try Volume(file.path) }
        #expect(try #require(error).rule.hasPrefix("is a pipe"))
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [512, 4096])
    func aBlockDeviceTellsItsBlocks(sector: Int) throws {
        let device = try LoopDevice(size: 8 << 20, sector: sector)
        let volume = try Volume(device.path, .itself)
        #expect(volume.kind == .blockDevice && volume.isDirect)
        #expect(volume.geometry.capacity == Sector(8 << 11))
        #expect(volume.geometry.logicalBlock == UInt32(sector))
        #expect(volume.geometry.operationUnit == UInt32(sector))
        #expect(volume.geometry.physicalBlock >= UInt32(sector))
        let discard = try #require(volume.geometry.discard)
        #expect(discard.granularity >= 512 && discard.alignment == 0 && discard.maximum >= discard.granularity)
        #expect(try Volume(device.path, VolumeOptions(direct: .off, loopFiles: false)).geometry.operationUnit == 512)
        try device.backing.truncate(to: 16 << 20)
        try Host.run("losetup", ["--set-capacity", device.path])
        #expect(try volume.refreshCapacity() == Sector(16 << 11))
    }

    // MARK: The file behind a loop device

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [DirectMode.auto, .on, .off])
    func aLoopDeviceIsServedAsItsFile(direct: DirectMode) throws {
        let device = try LoopDevice(size: 8 << 20)
        let volume = try Volume(device.path, VolumeOptions(direct: direct))
        #expect(volume.kind == .blockDevice)
        #expect(volume.backingFile == device.backing.path)
        #expect(volume.data != volume.descriptor)
        // As the device itself does it, which losetup makes without --direct-io.
        #expect(volume.isDirect == (direct == .on))
        #expect(volume.geometry.capacity == Sector(8 << 11))
        #expect(unsafe linux_write_at(volume.data, [7, 8], 2, 4096) == (direct == .on ? -Int(EINVAL) : 2))
        #expect(linux_synchronize(volume.data) == 0)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func whatTheHostWroteToALoopDeviceIsSeen() throws {
        let device = try LoopDevice(size: 1 << 20)
        let writer = OwnedDescriptor(owning: unsafe linux_open(device.path, O_RDWR, 0))
        #expect(unsafe linux_write_at(writer.number, [42], 1, 777) == 1)
        let volume = try Volume(device.path)
        var byte: UInt8 = 0
        #expect(unsafe linux_read_at(volume.data, &byte, 1, 777) == 1 && byte == 42)
    }

    @Test(
        .enabled(if: Host.hasLoopDevices, Host.loopIsMissing),
        arguments: [["--offset", "4096"], ["--sizelimit", "65536"]])
    func aPartOfAFileIsServedThroughItsDevice(options: [String]) throws {
        let device = try LoopDevice(size: 1 << 20, options: options)
        let volume = try Volume(device.path)
        #expect(volume.backingFile == nil)
        #expect(volume.data == volume.descriptor)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func anotherFileOfTheSameNameIsNotServed() throws {
        let device = try LoopDevice(size: 1 << 20)
        let other = try ScratchFile(size: 1 << 20)
        try #require(unsafe rename(other.path, device.backing.path) == 0)
        let volume = try Volume(device.path)
        #expect(volume.backingFile == nil)
        #expect(volume.data == volume.descriptor)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func readOnlyDevicesAreServedThemselves() throws {
        let device = try LoopDevice(size: 1 << 20, readOnly: true)
        #expect(try Volume(device.path, VolumeOptions(isReadOnly: true)).backingFile == nil)
        // So is a writable one that is only read: it costs nothing to be able to change its file.
        let writable = try LoopDevice(size: 1 << 20)
        #expect(try Volume(writable.path, VolumeOptions(isReadOnly: true)).backingFile == nil)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func devicesAreNotInMemory() throws {
        let device = try LoopDevice(size: 1 << 20)
        #expect(try !Volume(device.path, .itself).isInMemory, "though its node is")
        #expect(try !Volume("null").isInMemory)
    }

    @Test func filesInMemoryAreKnown() throws {
        let file = try ScratchFile(size: 1 << 20, in: "/dev/shm")
        #expect(try Volume(file.path).isInMemory)
        let other = try ScratchFile(size: 1 << 20)
        #expect(try !Volume(other.path).isInMemory)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func aReadOnlyDeviceIsAttachedReadOnlyOnly() throws {
        let device = try LoopDevice(size: 1 << 20, readOnly: true)
        let error = #expect(throws: VolumeError.self) { try Volume(device.path) }
        #expect(try #require(error).rule.contains("read-only") || error?.rule.contains("Read-only") == true)
        #expect(try Volume(device.path, VolumeOptions(isReadOnly: true)).geometry.capacity == Sector(2048))
    }
}
