import Descriptors
import Glibc
import Testing

@testable import Uring

/// Two connected sockets that keep messages apart stand in for a TAP device.
@Suite struct FrameBatchTests {
    private final class Pair {
        let near, far: OwnedDescriptor

        init() throws {
            var ends: [Int32] = [-1, -1]
            let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
            try #require(unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0)
            near = OwnedDescriptor(owning: ends[0])
            far = OwnedDescriptor(owning: ends[1])
        }

        func received() -> [UInt8]? {
            var bytes = [UInt8](repeating: 0, count: 20_000)
            let count = unsafe read(far.number, &bytes, bytes.count)
            return count > 0 ? Array(bytes.prefix(count)) : nil
        }
    }

    /// Long frames among short ones: they go by themselves, and not before those in front of them.
    @Test(arguments: [true, false], [[60], [60, 61, 62], [60, 61, 9000, 62, 63, 9001, 9002], [9000, 60]])
    func framesGoInTheirOrder(usesRing: Bool, sizes: [Int]) throws {
        let pair = try Pair()
        var batch = FrameBatch(file: pair.near.number, capacity: 8, usesRing: usesRing)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 8 * 16_384, alignment: 64)
        defer { unsafe memory.deallocate() }
        for round in 0..<3 {
            batch.clear()
            for (index, size) in sizes.enumerated() {
                let frame = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: memory[index * 16_384..<(index + 1) * 16_384])
                for byte in 0..<size { unsafe frame[byte] = UInt8(truncatingIfNeeded: round + index) }
                if let base = frame.baseAddress { unsafe batch.add(base, size) }
            }
            batch.run()
            for (index, size) in sizes.enumerated() {
                #expect(batch.result(index) == Int32(size))
                #expect(pair.received() == Array(repeating: UInt8(round + index), count: size))
            }
            #expect(pair.received() == nil)
        }
    }

    /// As many as there is room for, then the reason: for each frame by itself.
    @Test(arguments: [true, false])
    func whatIsNotTakenSaysWhy(usesRing: Bool) throws {
        let file = unsafe open("/dev/null", O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        var batch = FrameBatch(file: file, capacity: 4, usesRing: usesRing)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
        defer { unsafe memory.deallocate() }
        for _ in 0..<4 { unsafe batch.add(memory, 64) }
        batch.run()
        for index in 0..<4 { #expect(batch.result(index) == -EBADF) }
    }
}
