import CLinux
import Descriptors
import Glibc
import Testing

@testable import Uring

/// What only io_uring has: registered buffers, restrictions, the choice of flags.
@Suite struct RingTests {
    @Test func registeredSlabsCarryTransfers() throws {
        let file = try ScratchFile(size: 1 << 20)
        let engine = try Engines.started(.uring, file, capacity: 8)
        let slab = Slab(64 * 1024)
        #expect(unsafe engine.register(slab: 3, slab.bytes))
        slab.fill(0..<4096, 0xAB)
        let write = unsafe IOOperation(.write, buffer: slab.address(0), slab: 3, offset: 4096, length: 4096, tag: 1)
        let read = unsafe IOOperation(.read, buffer: slab.address(8192), slab: 3, offset: 4096, length: 4096, tag: 2)
        #expect(engine.run([write]) == [1: 4096])
        #expect(engine.run([read]) == [2: 4096])
        #expect(slab.holds(8192..<12288, 0xAB))
        // The kernel checks registered transfers against the slab: outside of it is EFAULT, not memory corruption.
        let other = Slab(4096)
        let stray = unsafe IOOperation(.read, buffer: other.address(0), slab: 3, offset: 0, length: 4096, tag: 3)
        #expect(engine.run([stray]) == [3: -EFAULT])
        engine.unregister(slab: 3)
        #expect(engine.run([read]) == [2: -EFAULT])
        #expect(unsafe engine.register(slab: 3, slab.bytes))
        #expect(engine.run([read]) == [2: 4096])
    }

    @Test func slabsBeyondTheTableStayUnregistered() throws {
        let file = try ScratchFile(size: 1 << 20)
        let engine = try UringEngine(file: file.descriptor, capacity: 8, slabs: 2)
        try engine.watch(event: -1, control: -1)
        let slab = Slab(4096)
        #expect(unsafe !engine.register(slab: 2, slab.bytes))
        #expect(unsafe !engine.register(slab: IOOperation.unregistered, slab.bytes))
        #expect(engine.run([.plain(.read, slab, at: 0, offset: 0, 4096, tag: 5)]) == [5: 4096])
    }

    /// Entries that an engine never makes, put into an enabled ring by hand.
    @Test func theRingRefusesEverythingElse() throws {
        let file = try ScratchFile(size: 4096)
        var ring = try UringRing(entries: 8)
        try ring.enable(files: [file.descriptor, -1, -1])
        let slab = Slab(4096)
        let nop = ring.result { entry in unsafe io_uring_prep_nop(entry) }
        #expect(nop == -EACCES)
        let open = ring.result { entry in
            unsafe io_uring_prep_openat(entry, AT_FDCWD, "/etc/hostname", O_RDONLY, 0)
        }
        #expect(open == -EACCES)
        let unregisteredFile = ring.result { entry in
            unsafe io_uring_prep_read(entry, file.descriptor, slab.address(0), 512, 0)
        }
        #expect(unregisteredFile == -EACCES)
        let allowed = ring.result { entry in
            unsafe linux_sqe_transfer(
                entry, UInt8(truncatingIfNeeded: IORING_OP_READ.rawValue), linux_sqe_fixed_file, 0, slab.address(0),
                512, 0, 0, 1)
        }
        #expect(allowed == 512)
        #expect(unsafe io_uring_register_files_update(ring.ring, 0, [file.descriptor], 1) == -EACCES)
    }

    @Test func entriesAreRefusedBeforeTheRingIsEnabled() throws {
        let file = try ScratchFile(size: 4096)
        let engine = try UringEngine(file: file.descriptor, capacity: 2)
        let slab = Slab(4096)
        // EBADFD: the operations are given back with it, none hangs.
        #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 512, tag: 1)]) == 1)
        #expect(engine.finish(1).map(\.result) == [-EBADFD])
    }

    @Test(arguments: [-1, 0, 40_000, Int.max])
    func impossibleCapacitiesAreFaults(capacity: Int) throws {
        let file = try ScratchFile(size: 4096)
        #expect(throws: Fault.self) { try UringEngine(file: file.descriptor, capacity: capacity) }
        #expect(throws: Fault.self) { try AioEngine(file: file.descriptor, capacity: capacity) }
    }

    @Test func whatIsToWatchMustBeOpen() throws {
        let file = try ScratchFile(size: 4096)
        let engine = try UringEngine(file: file.descriptor, capacity: 2)
        #expect(throws: Fault("register files", errno: EBADF)) { try engine.watch(event: 1 << 20, control: -1) }
    }

    @Test func operationsOnAClosedFileFailOneByOne() throws {
        let engine = try UringEngine(file: 1 << 20, capacity: 2)
        try engine.watch(event: -1, control: -1)
        let slab = Slab(4096)
        for tag in UInt32(1)...3 {
            #expect(engine.start([.plain(.read, slab, at: 0, offset: 0, 512, tag: tag)]) == 1)
            #expect(engine.finish(1).map(\.result) == [-EBADF])
        }
    }

    @Test func theRingWorksWithEverySetOfFlags() throws {
        for flags in UringSetup.flagChoices {
            let made = try unsafe UringSetup.make(entries: 8, flagChoices: [flags])
            unsafe UringSetup.destroy(made)
        }
        #expect(throws: Fault("io_uring_setup", errno: EINVAL)) {
            _ = try unsafe UringSetup.make(entries: 8, flagChoices: [1 << 31])
        }
    }

    /// All operations and both polls have ended and nothing was reaped; with 30, that fills 32 entries to the last.
    @Test(arguments: [30, 32]) func theCompletionQueueNeverOverflows(capacity: Int) throws {
        let file = try ScratchFile(size: 1 << 16)
        let bells = Bells()
        let engine = try UringEngine(file: file.descriptor, capacity: capacity)
        try engine.watch(event: bells.event.number, control: bells.control.number)
        let slab = Slab(4096)
        var next: UInt32 = 0
        func read() -> IOOperation {
            next += 1
            return .plain(.read, slab, at: 0, offset: 0, 512, tag: next)
        }
        for _ in 0..<50 {
            #expect(engine.wait(nanoseconds: 0) == [])  // arms both polls
            #expect(engine.start((0..<40).map { _ in read() }) == capacity)
            bells.ring(bells.event)
            bells.ring(bells.control)
            #expect(engine.take(1).count == 1)
            // Goes into the kernel, which adds both polls' completions to those that are there.
            #expect(engine.start([read()]) == 1)
            #expect(engine.finish(capacity).count == capacity)
            var reasons: WakeReasons = []
            while reasons != [.event, .control] { reasons.formUnion(engine.wait(nanoseconds: nil)) }
            _ = linux_eventfd_take(bells.event.number)
            _ = linux_eventfd_take(bells.control.number)
        }
        #expect(engine.overflows == 0)
    }

    @Test func indicesWrap() throws {
        let file = try ScratchFile(size: 4096)
        let engine = try Engines.started(.uring, file, capacity: 3)
        let slab = Slab(4096)
        // More rounds than the ring has entries, with a capacity that is no power of two.
        for round in 0..<100 {
            let operations = (0..<3).map { IOOperation.plain(.read, slab, at: 0, offset: 0, 512, tag: $0) }
            #expect(engine.run(operations) == [0: 512, 1: 512, 2: 512], "round \(round)")
        }
    }
}

extension UringRing {
    /// Submits one entry and returns its result.
    @safe fileprivate mutating func result(_ prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void) -> Int32? {
        unsafe prepare(nextEntry())
        guard enterAndWait(nanoseconds: 5_000_000_000) >= 0, ready > 0 else { return nil }
        let result = first.res
        advance()
        release()
        return result
    }
}

/// Which engine is used, and what is said about it.
@Suite struct ChoiceTests {
    @Test func ioUringIsPreferredAndCanBeRefusedByName() throws {
        #expect(try EngineChoice(for: .auto, obstacle: nil).kind == .uring)
        #expect(try EngineChoice(for: .libaio, obstacle: nil).kind == .libaio)
        let off = UringObstacle(code: EPERM, disabled: 2)
        let choice = try EngineChoice(for: .auto, obstacle: off)
        #expect(choice.kind == .libaio)
        #expect(
            choice.reason == "libaio: io_uring is switched off for this process (kernel.io_uring_disabled=2)")
        #expect(throws: Fault.self) { try EngineChoice(for: .uring, obstacle: off) }
    }

    @Test(arguments: [
        (EPERM, UInt8?.some(0), "seccomp"), (EPERM, nil, "seccomp"), (ENOSYS, nil, "no io_uring"),
        (ENOMEM, 0, "RLIMIT_MEMLOCK"), (EMFILE, 0, "Too many open files"),
    ])
    func obstaclesAreNamed(code: Int32, disabled: UInt8?, words: String) {
        #expect(UringObstacle(code: code, disabled: disabled).description.contains(words))
    }

    @Test func theProbeFindsWhatThisHostHas() throws {
        #expect(try EngineChoice(for: .libaio) == EngineChoice(for: .libaio, obstacle: nil))
        #expect(try EngineChoice(for: .auto).kind == (UringObstacle.find() == nil ? .uring : .libaio))
    }
}

/// The engine without a disk.
@Suite struct NullEngineTests {
    @Test func everythingEndsAtOnceInOrder() throws {
        let engine = NullEngine(capacity: 5)
        let slab = Slab(4096)
        for round in UInt32(0)..<20 {
            let operations = (0..<8).map {
                IOOperation.plain(.read, slab, at: 0, offset: 1 << 40, 4096, tag: round * 8 + $0)
            }
            #expect(engine.start(operations) == 5)
            #expect(engine.wait(nanoseconds: nil) == .completions)
            #expect(engine.take(2).map(\.tag) == [round * 8, round * 8 + 1])
            let rest = engine.take()
            #expect(rest.map(\.tag) == (2..<5).map { round * 8 + $0 })
            #expect(rest.allSatisfy { $0.result == 4096 })
        }
        #expect(engine.wait(nanoseconds: 0) == [])
    }
}
