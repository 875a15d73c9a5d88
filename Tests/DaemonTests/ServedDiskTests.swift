import Demonstration
import Descriptors
import Foundation
import Loopback
import Testing
import XenWire

/// The demonstration's parts with the real daemon: an ext4 image, and its comparison through the ring.
@Suite(.serialized)
struct ServedDiskTests {
    private let scratch = try? ScratchDirectory(in: "/tmp")

    private func image() throws -> FileSystemImage {
        try FileSystemImage(
            in: #require(scratch).path, mebibytes: 32, seed: 1, milliseconds: 60_000, isOver: { false })
    }

    private func serve(_ path: String) throws -> ServedDisk {
        try ServedDisk(path, daemon: World.daemonPath, temporary: #require(scratch).path)
    }

    @Test func `an image is an ext4 file system with the files in it`() throws {
        let image = try image()
        let bytes = try Data(contentsOf: URL(fileURLWithPath: image.path))
        #expect(bytes.count == 32 << 20)
        #expect(bytes[1080..<1082].elementsEqual([0x53, 0xEF]), "the magic number of ext4's super block")
        #expect(image.contents.bytes == 24 << 20)
        let first = try Data(contentsOf: URL(fileURLWithPath: scratch!.path + "/files/0/file-0"))
        #expect(bytes.range(of: first.prefix(4096)) != nil)
    }

    @Test func `every block through the ring is the file's`() throws {
        let image = try image()
        let served = try serve(image.path)
        #expect(served.disk.isReadOnly)
        #expect(try served.check(against: image.path, isOver: { false }) == image.bytes / 512)
        try served.detach()
    }

    @Test func `one wrong byte is found`() throws {
        let image = try image()
        let copy = image.path + ".copy"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: image.path))
        bytes[12345 * 512 + 100] ^= 1
        try bytes.write(to: URL(fileURLWithPath: copy))
        let served = try serve(image.path)
        #expect(throws: DiskCheckError.differs(sector: 12345)) {
            try served.check(against: copy, isOver: { false })
        }
        try served.detach()
    }

    @Test func `a file of another size is not compared`() throws {
        let image = try image()
        let shorter = image.path + ".copy"
        try Data(count: 4096).write(to: URL(fileURLWithPath: shorter))
        let served = try serve(image.path)
        #expect(throws: DiskCheckError.size(disk: image.bytes, file: 4096)) {
            try served.check(against: shorter, isOver: { false })
        }
        try served.detach()
    }

    @Test func `a comparison does not outlive the daemon`() throws {
        let image = try image()
        let served = try serve(image.path)
        kill(served.daemonProcess, SIGKILL)
        #expect(throws: DiskCheckError.backendGone) { try served.check(against: image.path, isOver: { false }) }
    }
}
