import CLinux
import Descriptors
import Glibc
import Testing

@testable import Uring

@Suite struct EngineTests {
    @Test(arguments: Engines.kinds, [false, true])
    func whatIsWrittenIsRead(kind: EngineKind, direct: Bool) throws {
        let file = try ScratchFile(size: 1 << 20, direct: direct)
        let engine = try Engines.started(kind, file, capacity: 8)
        let slab = Slab(16 * 4096)
        for block in 0..<8 { slab.fill(block * 4096..<(block + 1) * 4096, UInt8(block + 1)) }
        let writes = (0..<8).map { block in
            IOOperation.plain(.write, slab, at: block * 4096, offset: UInt64(block) * 8192, 4096, tag: UInt32(block))
        }
        #expect(engine.run(writes) == Dictionary(uniqueKeysWithValues: (0..<8).map { (UInt32($0), 4096) }))
        #expect(engine.run([.plain(.synchronize, slab, at: 0, offset: 0, 0, tag: 77)]) == [77: 0])
        let reads = (0..<8).map { block in
            IOOperation.plain(
                .read, slab, at: (8 + block) * 4096, offset: UInt64(block) * 8192, 4096, tag: UInt32(100 + block))
        }
        #expect(engine.run(reads).values.allSatisfy { $0 == 4096 })
        for block in 0..<8 {
            #expect(slab.holds((8 + block) * 4096..<(9 + block) * 4096, UInt8(block + 1)), "block \(block)")
        }
    }

    @Test(arguments: Engines.kinds)
    func acceptsNoMoreThanItsCapacity(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 20)
        let engine = try Engines.started(kind, file, capacity: 5)
        let slab = Slab(4096)
        let operations = (0..<12).map { IOOperation.plain(.read, slab, at: 0, offset: 0, 512, tag: UInt32($0)) }
        #expect(engine.capacity == 5)
        #expect(engine.start(operations) == 5)
        #expect(engine.start(Array(operations[5...])) == 0)
        #expect(engine.finish(5).map(\.tag).sorted() == [0, 1, 2, 3, 4])
        #expect(engine.start(Array(operations[5...])) == 5)
        #expect(engine.finish(5).map(\.tag).sorted() == [5, 6, 7, 8, 9])
        #expect(engine.take().isEmpty)
    }

    @Test(arguments: Engines.kinds)
    func reapsInPartsWithoutLoss(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let engine = try Engines.started(kind, file, capacity: 16)
        let slab = Slab(4096)
        #expect(engine.start((0..<16).map { .plain(.read, slab, at: 0, offset: 0, 512, tag: $0) }) == 16)
        var tags: [UInt32] = []
        while tags.count < 16, !engine.wait(nanoseconds: 5_000_000_000).isEmpty { tags += engine.take(3).map(\.tag) }
        #expect(tags.sorted() == Array(0..<16))
    }

    @Test(arguments: Engines.kinds)
    func reportsWhatTheKernelSaid(kind: EngineKind) throws {
        let file = try ScratchFile(size: 6000)
        let engine = try Engines.started(kind, file, capacity: 8)
        let slab = Slab(8192)
        let results = engine.run([
            .plain(.read, slab, at: 0, offset: 4096, 4096, tag: 1),  // ends inside: short
            .plain(.read, slab, at: 0, offset: 1 << 30, 4096, tag: 2),  // beyond the end: nothing
            .plain(.write, slab, at: 0, offset: UInt64(Int64.max) - 100, 4096, tag: 3),  // no such offset
            .plain(.read, slab, at: 0, offset: 0, 512, tag: 4),
        ])
        #expect(results[1] == 1904)
        #expect(results[2] == 0)
        #expect(results[3].map { $0 == -EFBIG || $0 == -EINVAL } == true)
        #expect(results[4] == 512)
        #expect(results.count == 4)
    }

    @Test(arguments: Engines.kinds)
    func refusesWritesOnAReadOnlyDescriptor(kind: EngineKind) throws {
        let file = try ScratchFile(size: 1 << 16)
        let readOnly = OwnedDescriptor(owning: unsafe open(file.path, O_RDONLY | O_CLOEXEC))
        let engine: any Engine =
            kind == .libaio
            ? try AioEngine(file: readOnly.number, capacity: 4) : try UringEngine(file: readOnly.number, capacity: 4)
        try engine.watch(event: -1, control: -1)
        let slab = Slab(4096)
        let results = engine.run([
            .plain(.write, slab, at: 0, offset: 0, 4096, tag: 1), .plain(.read, slab, at: 0, offset: 0, 4096, tag: 2),
        ])
        #expect(results == [1: -EBADF, 2: 4096])
    }

    /// Any mixture of batches, partial reaps and waits ends each operation once, with the data of a plain array.
    @Test(arguments: Engines.kinds, [false, true])
    func randomHistoriesMatchAModel(kind: EngineKind, direct: Bool) throws {
        for seed in 1...3 {
            var history = try RandomHistory(kind: kind, direct: direct, seed: UInt64(seed))
            try history.run(steps: 400)
        }
    }
}

/// Random operations on a file of 64 blocks, at most one in flight per block, against an array of what each block holds.
private struct RandomHistory {
    static let blocks = 64
    static let size = 4096
    let engine: any Engine
    let slab = Slab(RandomHistory.blocks * RandomHistory.size)
    var random: SplitMix
    var model = [UInt8](repeating: 0, count: RandomHistory.blocks)
    var busy: [Int: IOOperation] = [:]
    let file: ScratchFile

    init(kind: EngineKind, direct: Bool, seed: UInt64) throws {
        file = try ScratchFile(size: Self.blocks * Self.size, direct: direct)
        engine = try Engines.started(kind, file, capacity: 24)
        random = SplitMix(state: seed)
    }

    mutating func run(steps: Int) throws {
        for _ in 0..<steps {
            switch random.next() % 4 {
            case 0, 1: submitSome()
            case 2: settle(engine.take(Int(random.next() % 5) + 1))
            default: if !busy.isEmpty { _ = engine.wait(nanoseconds: 5_000_000_000) }
            }
        }
        while !busy.isEmpty {
            let ends = engine.finish(1)
            try #require(!ends.isEmpty, "\(busy.count) operations lost")
            settle(ends)
        }
    }

    private mutating func submitSome() {
        let free = (0..<Self.blocks).filter { busy[$0] == nil }.shuffled(using: &random)
        let batch = free.prefix(Int(random.next() % 12)).map { operation(on: $0) }
        let accepted = engine.start(batch)
        #expect(accepted == min(batch.count, engine.capacity - busy.count))
        for operation in batch.prefix(accepted) { busy[Int(operation.tag)] = operation }
    }

    private mutating func operation(on block: Int) -> IOOperation {
        let start = block * Self.size
        let kind: OperationKind = random.next() % 2 == 0 ? .read : .write
        slab.fill(start..<start + Self.size, kind == .write ? UInt8(truncatingIfNeeded: random.next()) : 0xEE)
        return .plain(kind, slab, at: start, offset: UInt64(start), UInt32(Self.size), tag: UInt32(block))
    }

    private mutating func settle(_ ends: [IOCompletion]) {
        for end in ends {
            let block = Int(end.tag)
            guard let operation = busy.removeValue(forKey: block) else {
                Issue.record("block \(block) ended twice")
                continue
            }
            let range = block * Self.size..<(block + 1) * Self.size
            #expect(end.result == Int32(Self.size))
            if operation.kind == .write { model[block] = unsafe slab.bytes[range.lowerBound] }
            #expect(slab.holds(range, model[block]), "block \(block)")
        }
    }
}

/// Sebastiano Vigna's SplitMix64: the same seed gives the same history.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}
