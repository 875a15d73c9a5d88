import Descriptors
import Glibc
import Testing

@testable import Uring

@Suite @safe final class FrameReadsTests {
    private static let room = 256, stride = 320
    private let pair: FrameSockets
    private let memory: UnsafeMutableRawPointer

    init() throws {
        pair = try FrameSockets()
        unsafe memory = .allocate(byteCount: FrameReads.capacity * Self.stride, alignment: 64)
    }

    deinit { unsafe memory.deallocate() }

    private func send(_ numbers: Range<UInt8>) {
        for number in numbers {
            let frame = [UInt8](repeating: number, count: Int(number) + 1)
            #expect(unsafe write(pair.far.number, frame, frame.count) == frame.count)
        }
    }

    private func read(_ reads: inout FrameReads, _ wanted: Int) -> [[UInt8]] {
        var frames = [ReadFrame](repeating: ReadFrame(), count: FrameReads.capacity)
        let places = (0..<FrameReads.capacity).map { UInt32(64 + $0 * Self.stride) }
        // As many places and elements as a call reads at most.
        unsafe reads.read(wanted, to: memory - 64, places: places, room: UInt32(Self.room), into: &frames)
        let found = frames.prefix(reads.count)
        #expect(reads.longest == found.map { Int($0.bytes) }.max() ?? 0)
        return found.map {
            unsafe Array(UnsafeRawBufferPointer(start: memory - 64 + Int($0.offset), count: Int($0.bytes)))
        }
    }

    private func frames(_ numbers: Range<UInt8>) -> [[UInt8]] {
        numbers.map { [UInt8](repeating: $0, count: Int($0) + 1) }
    }

    /// As many as are wanted, or as are there; what is left over takes nothing of what comes later.
    @Test(arguments: [(5, 5), (5, 9), (9, 5), (0, 8), (64, 64), (3, 64)] as [(UInt8, Int)])
    func framesComeInTheirOrder(there: UInt8, wanted: Int) throws {
        var reads = try FrameReads(file: pair.near.number)
        for _ in 0..<20 {
            send(0..<there)
            #expect(read(&reads, wanted) == frames(0..<UInt8(min(Int(there), wanted))))
            #expect(reads.failure == 0)
            // Nobody waits any more.
            send(100..<101)
            let rest = (there > wanted ? frames(UInt8(wanted)..<there) : []) + frames(100..<101)
            #expect(read(&reads, rest.count) == rest)
        }
    }

    @Test func framesThatComeMeanwhileAreNotLost() throws {
        var reads = try FrameReads(file: pair.near.number)
        let far = pair.far.number
        let writer = try JoinableThread(name: "frames") {
            for number in 0..<20_000 {
                let frame = unsafe withUnsafeBytes(of: UInt32(number).littleEndian) { unsafe Array($0) }
                while unsafe write(far, frame, 4) != 4 { sched_yield() }
            }
        }
        defer { writer.join() }
        var next: UInt32 = 0
        while next < 20_000 {
            for frame in read(&reads, 16) {
                let number = frame.reversed().reduce(0) { $0 << 8 | UInt32($1) }
                try #require(number == next)
                next += 1
            }
        }
    }

    @Test func whatCannotBeReadSaysWhy() throws {
        let file = unsafe open("/dev/null", O_WRONLY | O_CLOEXEC)
        defer { close(file) }
        var reads = try FrameReads(file: file)
        #expect(read(&reads, 8).isEmpty)
        #expect(reads.failure == EBADF)
    }
}
