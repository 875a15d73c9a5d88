import CLinux
import Descriptors
import Glibc
import Testing
import Uring
import XenWire

@testable import BlockBackend

/// What a real kernel says when a volume fails, through both engines: to be told on exactly the operations concerned.
@Suite struct FaultTests {
    private static let megabyte = 1 << 20

    /// The backing file of a loop device is cut: reads beyond are EIO, the rest goes on.
    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [EngineKind.uring, .libaio])
    func aCutBackingFileFailsItsPartOnly(kind: EngineKind) throws {
        let device = try LoopDevice(size: 4 * Self.megabyte)
        let io = try Operator(try Volume(device.path, .itself), kind)
        try device.backing.truncate(to: Self.megabyte)
        let results = io.run([
            io.transfer(.read, at: 0, 4096, tag: 1), io.transfer(.read, at: 2 * Self.megabyte, 4096, tag: 2),
            io.transfer(.read, at: Self.megabyte - 4096, 4096, tag: 3),
        ])
        #expect(results == [1: 4096, 2: -EIO, 3: 4096])
    }

    /// A device that was set to size 0 while it was open, as when a disk is pulled.
    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [EngineKind.uring, .libaio])
    func aVanishedDeviceAnswersEverything(kind: EngineKind) throws {
        let device = try LoopDevice(size: 4 * Self.megabyte)
        let volume = try Volume(device.path, .itself)
        let io = try Operator(volume, kind)
        #expect(io.run([io.transfer(.write, at: 0, 4096, tag: 1)]) == [1: 4096])
        try device.backing.truncate(to: 0)
        try Host.run("losetup", ["--set-capacity", device.path])
        #expect(try volume.refreshCapacity() == Sector(0))
        let results = io.run([
            io.transfer(.read, at: 0, 4096, tag: 2), io.transfer(.write, at: 8192, 4096, tag: 3),
            io.transfer(.read, at: 4096, 4096, tag: 4),
        ])
        #expect(results.count == 3)
        // The end of a device reads as nothing or fails; a write never succeeds.
        #expect(results.values.allSatisfy { $0 <= 0 }, "\(results)")
        #expect(results[3].map { $0 < 0 } == true, "\(results)")
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [EngineKind.uring, .libaio])
    func largeBlocksWantAlignedOperations(kind: EngineKind) throws {
        let device = try LoopDevice(size: 4 * Self.megabyte, sector: 4096)
        let volume = try Volume(device.path, .itself)
        #expect(volume.geometry.operationUnit == 4096)
        let io = try Operator(volume, kind)
        let results = io.run([
            io.transfer(.write, at: 512, 4096, tag: 1), io.transfer(.write, at: 4096, 512, tag: 2),
            io.transfer(.write, at: 4096, 4096, tag: 3), io.synchronize(tag: 4),
        ])
        #expect(results == [1: -EINVAL, 2: -EINVAL, 3: 4096, 4: 0])
        // The same through the page cache, which takes any sector.
        let cached = try Operator(try Volume(device.path, VolumeOptions(direct: .off, loopFiles: false)), kind)
        #expect(cached.run([cached.transfer(.write, at: 512, 512, tag: 5)]) == [5: 512])
    }

    /// A sparse file on a small file system: writes fail with ENOSPC when it is full, overwriting goes on.
    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing), arguments: [EngineKind.uring, .libaio])
    func aFullFileSystemIsToldPerWrite(kind: EngineKind) throws {
        let mount = try Mount(["-t", "tmpfs", "-o", "size=1m"], source: "tmpfs")
        let file = try ScratchFile(size: 8 * Self.megabyte, in: mount.path)
        let io = try Operator(try Volume(file.path, VolumeOptions(direct: .off, loopFiles: false)), kind)
        let results = io.run((0..<16).map { io.transfer(.write, at: $0 * 131_072, 131_072, tag: UInt32($0)) })
        let whole = results.values.filter { $0 == 131_072 }.count
        #expect(results.count == 16)
        #expect(whole < 16 && whole >= 4, "\(results)")
        // What did not fit was short or ENOSPC, nothing else.
        #expect(results.values.allSatisfy { $0 == -ENOSPC || $0 > 0 }, "\(results)")
        #expect(results.values.contains(-ENOSPC))
        let fitted = try #require(results.first { $0.value == 131_072 }).key
        #expect(io.run([io.transfer(.write, at: Int(fitted) * 131_072, 4096, tag: 99)]) == [99: 4096])
    }
}

/// An engine on a volume, with buffers.
@safe private final class Operator {
    private let volume: Volume
    private let engine: any Engine
    private let buffer: UnsafeMutableRawBufferPointer

    init(_ volume: Volume, _ kind: EngineKind) throws {
        self.volume = volume
        engine = try volume.makeEngine(EngineChoice(for: kind), capacity: 32)
        try engine.watch(event: -1, control: -1)
        unsafe buffer = .allocate(byteCount: 131_072, alignment: 4096)
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 7)
    }

    deinit { unsafe buffer.deallocate() }

    func transfer(_ kind: OperationKind, at offset: Int, _ length: Int, tag: UInt32) -> IOOperation {
        unsafe IOOperation(
            kind, buffer: buffer.baseAddress, slab: IOOperation.unregistered, offset: UInt64(offset),
            length: UInt32(length), tag: tag)
    }

    func synchronize(tag: UInt32) -> IOOperation {
        unsafe IOOperation(
            .synchronize, buffer: nil, slab: IOOperation.unregistered, offset: 0, length: 0, tag: tag)
    }

    /// Runs everything to its end, by tag.
    func run(_ operations: [IOOperation]) -> [UInt32: Int32] {
        let accepted = unsafe operations.withUnsafeBufferPointer { table in
            unsafe table.baseAddress.map { unsafe engine.submit($0, count: table.count) }
        }
        #expect(accepted == operations.count)
        var results: [UInt32: Int32] = [:]
        while results.count < operations.count, !engine.wait(nanoseconds: 20_000_000_000).isEmpty {
            var ends = [IOCompletion](repeating: IOCompletion(tag: 0, result: 0), count: 32)
            let count = unsafe ends.withUnsafeMutableBufferPointer { table in
                unsafe table.baseAddress.map { unsafe engine.reap($0, capacity: table.count) } ?? 0
            }
            for end in ends.prefix(count) { #expect(results.updateValue(end.result, forKey: end.tag) == nil) }
        }
        return results
    }
}
