import CLinux
import Descriptors
import Glibc
import Testing
import Uring
import XenWire

@testable import BlockBackend

@Suite struct DiscardTests {
    private static let megabyte = 1 << 20

    @Test func punchesHolesIntoAFile() throws {
        let file = try ScratchFile(size: 4 * Self.megabyte)
        let volume = try Volume(file.path)
        try #require(volume.geometry.discard != nil, "the scratch folder's file system cannot punch holes")
        try expectDiscardFreesSpace(volume, file, path: file.path)
    }

    @Test(.enabled(if: Host.hasLoopDevices, Host.loopIsMissing))
    func discardsOnABlockDevice() throws {
        let device = try LoopDevice(size: 4 * Self.megabyte)
        try expectDiscardFreesSpace(try Volume(device.path), device.backing, path: device.path)
    }

    private func expectDiscardFreesSpace(_ volume: Volume, _ file: ScratchFile, path: String) throws {
        try fill(path, megabytes: 4)
        let before = file.occupied
        try #require(before >= 4 * 2048)
        let desk = try Desk(volume)
        #expect(desk.run([(offset: Self.megabyte, length: 2 * Self.megabyte)]) == [0: 0])
        #expect(file.occupied <= before - 2 * 2048 + 64, "2 MiB are free again")
        #expect(try firstByte(path, at: Self.megabyte - 1) == 0xA5)
        #expect(try firstByte(path, at: Self.megabyte) == 0)
        #expect(try firstByte(path, at: 3 * Self.megabyte - 1) == 0)
        #expect(try firstByte(path, at: 3 * Self.megabyte) == 0xA5)
    }

    @Test func refusalsAreReported() throws {
        let file = try ScratchFile(size: Self.megabyte)
        let volume = try Volume(file.path, VolumeOptions(isReadOnly: true))
        let desk = try Desk(volume)
        #expect(desk.run([(offset: 0, length: 4096)]) == [0: -EBADF])
    }

    @Test func aFullLaneTurnsAwayAndManyJobsEndOnce() throws {
        let desk = try Desk(try Volume("null"), capacity: 3)
        let ranges = (0..<500).map { (offset: $0 * 4096, length: 4096) }
        let results = desk.run(ranges)
        #expect(results.count == 500)
        #expect(results.values.allSatisfy { $0 == 0 })
    }

    @Test func whatIsCancelledEnds() throws {
        let desk = try Desk(try Volume("null"))
        desk.mailbox.cancel()
        // 2^62 bytes in chunks: it would not end by itself.
        #expect(desk.run([(offset: 0, length: 1 << 62)]) == [0: -ECANCELED])
    }

    @Test func stoppingEndsWhatIsLeft() throws {
        let desk = try Desk(try Volume("null"))
        for tag in UInt32(0)..<5 {
            #expect(desk.lane.submit(DiscardJob(offset: 0, length: 1 << 62, tag: tag, reply: desk.mailbox)))
        }
        desk.lane.stop()
        #expect(desk.take().map(\.tag) == [0, 1, 2, 3, 4])
        #expect(!desk.lane.submit(DiscardJob(offset: 0, length: 1, tag: 9, reply: desk.mailbox)))
        desk.isStopped = true
    }

    @Test func chunksAreWholeUnits() {
        #expect(DiscardWorker.chunk(DiscardGeometry(granularity: 4096, maximum: 1 << 40)) == 64 << 20)
        #expect(DiscardWorker.chunk(DiscardGeometry(granularity: 4096, maximum: 10_000)) == 8192)
        #expect(DiscardWorker.chunk(DiscardGeometry(granularity: 1 << 30, maximum: 4096)) == 1 << 30)
        #expect(DiscardWorker.chunk(DiscardGeometry(granularity: 0, maximum: 0)) == 64 << 20)
    }

    private func fill(_ path: String, megabytes: Int) throws {
        let descriptor = OwnedDescriptor(owning: unsafe linux_open(path, O_WRONLY, 0))
        let block = [UInt8](repeating: 0xA5, count: Self.megabyte)
        for index in 0..<megabytes {
            let written = unsafe pwrite(descriptor.number, block, block.count, index * block.count)
            try #require(written == block.count)
        }
        try #require(fsync(descriptor.number) == 0)
    }

    /// Nothing of its own is in the lane, so nothing of its own will ever end there.
    @Test func aQueueForWhichThereWasNoRoomIsRungWhenThereIs() throws {
        let mine = try Desk(try Volume("null"), capacity: 1)
        let control = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "eventfd")
        let theirs = try DiscardMailbox(wakeup: control.number, capacity: 1)
        // One is with the thread, for as long as it is not cancelled, and one fills the lane.
        for tag in UInt32(0)..<2 {
            let job = DiscardJob(offset: 0, length: 1 << 62, tag: tag, reply: mine.mailbox)
            while !mine.lane.submit(job) { usleep(100) }
        }
        #expect(!mine.lane.submit(DiscardJob(offset: 0, length: 512, tag: 2, reply: theirs)))
        #expect(linux_eventfd_take(control.number) == 0)
        mine.mailbox.cancel()
        var isRung = false
        for _ in 0..<60_000 where !isRung {
            usleep(1000)
            isRung = linux_eventfd_take(control.number) != 0
        }
        #expect(isRung)
    }

    private func firstByte(_ path: String, at offset: Int) throws -> UInt8 {
        let descriptor = OwnedDescriptor(owning: unsafe linux_open(path, O_RDONLY, 0))
        var byte: UInt8 = 0xFF
        try #require(unsafe pread(descriptor.number, &byte, 1, offset) == 1)
        return byte
    }
}

/// A lane with one queue's mailbox and control eventfd.
private final class Desk {
    let lane: DiscardLane
    let mailbox: DiscardMailbox
    private let control: OwnedDescriptor
    var isStopped = false

    init(_ volume: Volume, capacity: Int = 256) throws {
        control = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC)), "eventfd")
        mailbox = try DiscardMailbox(wakeup: control.number, capacity: 1024)
        lane = try DiscardLane(volume, name: "discard-test", capacity: capacity)
    }

    deinit { if !isStopped { lane.stop() } }

    func take() -> [IOCompletion] {
        var table = [IOCompletion](repeating: IOCompletion(tag: 0, result: 1), count: 16)
        let count = unsafe table.withUnsafeMutableBufferPointer { table in
            guard let base = table.baseAddress else { return 0 }
            return unsafe mailbox.take(into: base, capacity: table.count)
        }
        return Array(table.prefix(count))
    }

    func run(_ ranges: [(offset: Int, length: Int)]) -> [UInt32: Int32] {
        var results: [UInt32: Int32] = [:]
        var next = 0
        while results.count < ranges.count {
            while next < ranges.count {
                let job = DiscardJob(
                    offset: UInt64(ranges[next].offset), length: UInt64(ranges[next].length), tag: UInt32(next),
                    reply: mailbox)
                guard lane.submit(job) else { break }
                next += 1
            }
            _ = linux_eventfd_take(control.number)
            // One signal may stand for any number of ends.
            while case let ends = take(), !ends.isEmpty {
                for end in ends { #expect(results.updateValue(end.result, forKey: end.tag) == nil) }
            }
        }
        return results
    }
}
