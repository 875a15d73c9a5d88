import CLinux
import Glibc
import Testing

@testable import Uring

@Suite struct InPlaceTests {
    static func engine(_ file: ScratchFile, _ kind: EngineKind, capacity: Int = 8) throws -> InPlaceEngine {
        let engine = InPlaceEngine(
            file: file.descriptor, capacity: capacity, waiting: try Engines.make(kind, file, capacity: 1))
        try engine.watch(event: -1, control: -1)
        return engine
    }

    @Test(arguments: Engines.kinds)
    func whatIsWrittenIsRead(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try Self.engine(file, kind)
        let slab = Slab(2 * 4096)
        slab.fill(0..<4096, 7)
        #expect(engine.run([.plain(.write, slab, at: 0, offset: 8192, 4096, tag: 1)]) == [1: 4096])
        #expect(engine.run([.plain(.synchronize, slab, at: 0, offset: 0, 0, tag: 2)]) == [2: 0])
        #expect(engine.run([.plain(.read, slab, at: 4096, offset: 8192, 4096, tag: 3)]) == [3: 4096])
        #expect(slab.holds(4096..<8192, 7))
    }

    @Test func theKernelsAnswersAreKept() throws {
        let file = try ScratchFile(size: 6000)
        let engine = try Self.engine(file, .uring)
        let slab = Slab(8192)
        let results = engine.run([
            .plain(.read, slab, at: 0, offset: 4096, 4096, tag: 1),
            .plain(.read, slab, at: 0, offset: 1 << 40, 4096, tag: 2),
            .plain(.write, slab, at: 0, offset: UInt64(Int64.max) - 100, 4096, tag: 3),
        ])
        #expect(results == [1: 6000 - 4096, 2: 0, 3: -EINVAL] || results == [1: 6000 - 4096, 2: 0, 3: -EFBIG])
    }

    @Test func acceptsNoMoreThanItsCapacity() throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try Self.engine(file, .uring, capacity: 5)
        let slab = Slab(4096)
        let operations = (0..<12).map { IOOperation.plain(.read, slab, at: 0, offset: 0, 512, tag: UInt32($0)) }
        #expect(engine.start(operations) == 5)
        #expect(engine.start(Array(operations[5...])) == 0)
        #expect(engine.take(3).map(\.tag) == [0, 1, 2])
        #expect(engine.start(Array(operations[5...])) == 3)
        #expect(engine.take().map(\.tag) == [3, 4, 5, 6, 7])
    }

    @Test(arguments: Engines.kinds)
    func endsWakeAndNothingSleeps(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try Self.engine(file, kind)
        #expect(engine.wait(nanoseconds: 0) == [])
        #expect(engine.start([.plain(.read, Slab(4096), at: 0, offset: 0, 0, tag: 1)]) == 1)
        #expect(engine.wait(.forever, acknowledgement: nil) == .completions)
        #expect(engine.take().count == 1)
        #expect(engine.wait(nanoseconds: 0) == [])
    }
}
