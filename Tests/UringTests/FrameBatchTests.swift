import Descriptors
import Glibc
import Testing

@testable import Uring

@Suite struct FrameBatchTests {
    /// Long frames among short ones: they go by themselves, and not before those in front of them.
    @Test(arguments: [true, false], [[60], [60, 61, 62], [60, 61, 9000, 62, 63, 9001, 9002], [9000, 60]])
    func framesGoInTheirOrder(usesRing: Bool, sizes: [Int]) throws {
        let pair = try FrameSockets()
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
