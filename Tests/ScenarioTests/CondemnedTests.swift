import BlockBackend
import Descriptors
import Glibc
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

/// A request that ended one process after the other is given up.
@Suite struct CondemnedTests {
    @Test func aReadIsAnsweredWithAnError() throws {
        let queue = try FaultyQueue(RawRequest(operation: 0, identifier: 77, sector: 8))
        let backend = try queue.recover()
        #expect(queue.answers().map(\.status) == [-1])
        #expect(backend.queue.condition == .running)
    }

    /// Linux' blkfront makes a success of a flush that failed, and sends no further one.
    @Test(arguments: [UInt8(3), 2]) func aFlushIsNeverAnsweredWithAnError(operation: UInt8) throws {
        let queue = try FaultyQueue(RawRequest(operation: operation, identifier: 77))
        let backend = try queue.recover()
        #expect(queue.answers().isEmpty)
        guard case .failed = backend.queue.condition else {
            Issue.record("condition \(backend.queue.condition)")
            return
        }
        #expect(queue.journal.flushFailure == EIO)
    }

    /// The next process must know it even if this one was killed before it could say so.
    @Test func aFailedFlushIsInTheJournal() throws {
        let queue = try FaultyQueue(RawRequest(operation: 3, identifier: 77), synchronizeError: ENOSPC)
        #expect(queue.answers().isEmpty)
        #expect(queue.journal.flushFailure == ENOSPC)
        #expect(try FaultyQueue(RawRequest(operation: 3, identifier: 78)).journal.flushFailure == nil)
    }
}

/// A queue with one request, at which a process has just ended for the third time.
private final class FaultyQueue {
    private let ring: GuestRing
    private let platform = ModelPlatform()
    private let simulation = Simulation(seed: 1)
    private let scenario = Scenario(name: "faulty", mix: .init(barrier: 1))
    let journal: Journal

    /// - Parameter synchronizeError: with which the volume refuses to make writes durable; there is no fault then.
    init(_ request: RawRequest, synchronizeError: Int32? = nil) throws {
        let domain = try platform.createDomain(DomainID(7), pages: 16, references: 16)
        ring = try GuestRing(domain, abi: .native, pages: 1, startingAt: 0)
        let path = "/dev/shm/xen-condemned-\(getpid())-\(request.operation)"
        defer { unsafe unlink(path) }
        journal = Journal(making: try MappedFile(creating: path, bytes: 3 * 4096), for: JournalIdentity([]))
        var request = request
        if request.operation == 0 {
            request.second = 1
            request.segments = [.init(reference: GrantReference(15), first: 0, last: 7)]
        }
        ring.put(request)
        ring.publish()
        try endFirstProcess(synchronizeError)
    }

    private func endFirstProcess(_ synchronizeError: Int32?) throws {
        var scenario = scenario
        scenario.firstIndex = 0
        let disk = try Disk(scenario)
        disk.volume.synchronizeError = synchronizeError
        let backend = try Backend(
            scenario, ring, of: DomainID(7), disk, platform, simulation, journal: journal)
        serve(backend)
        guard synchronizeError == nil else { return endOperations(backend) }
        // Three words: faults, the entry that is done alone, the entry whose fault it was; the first one taken is 0.
        let words = unsafe journal.faultRecord.assumingMemoryBound(to: UInt32.self)
        for (index, word) in [UInt32(3), 1, 1].enumerated() { unsafe words[index] = word }
    }

    private func endOperations(_ backend: Backend) {
        var random = SeededRandom(seed: 1)
        while backend.engine.isBusy { backend.engine.step(&random) }
        serve(backend)
    }

    func recover() throws -> Backend {
        let backend = try Backend(
            scenario, ring, of: DomainID(7), Disk(scenario, recovers: true), platform, simulation, journal: journal,
            recovers: true)
        serve(backend)
        return backend
    }

    private func serve(_ backend: Backend) {
        for event in platform.deliverable { event.deliver() }
        for _ in 0..<200 where backend.isReady { backend.step() }
    }

    func answers() -> [RawResponse] {
        var answers: [RawResponse] = []
        _ = ring.serve { answers.append($0) }
        return answers
    }
}
