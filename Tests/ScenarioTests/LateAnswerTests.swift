import Loopback
import ScenarioWorld
import Testing
import XenWire

/// What the volume brings late is shown in chunks, so that it gets the guest's next requests while the rest is worked
/// off; what came with the submission is shown at once.
@Suite struct LateAnswerTests {
    @Test func lateAnswersAreShownInChunks() throws {
        let queue = try FlushedQueue(requests: 20)
        queue.settle()
        queue.endAll()
        #expect(queue.answersAfterTurns(3) == [8, 8, 4])
    }

    @Test func answersOfTheSubmissionAreShownAtOnce() throws {
        let queue = try FlushedQueue(requests: 20)
        queue.takeAll()
        queue.endAll()
        #expect(queue.answersAfterTurns(1) == [20])
    }

    @Test func anAnswerThatComesAloneGivesTheRestNoCredit() throws {
        let queue = try FlushedQueue(requests: 20)
        queue.takeAll()
        queue.endOne()
        #expect(queue.answersAfterTurns(1) == [1])
        queue.endAll()
        #expect(queue.answersAfterTurns(2) == [8, 8])
    }
}

/// A queue with flushes on its ring, all taken in one turn, stepped by hand.
private final class FlushedQueue {
    let backend: Backend
    private let ring: GuestRing
    private let simulation = Simulation(seed: 1)
    private let platform = ModelPlatform()
    private let disk: Disk

    init(requests: Int) throws {
        let scenario = Scenario(name: "late answers")
        let domain = try platform.createDomain(DomainID(7), pages: 16, references: 16)
        ring = try GuestRing(domain, abi: .native, pages: 1, startingAt: scenario.firstIndex)
        disk = try Disk(scenario)
        backend = try Backend(scenario, ring, of: DomainID(7), disk, platform, simulation)
        growChunk()
        putFlushes(requests)
    }

    private func putFlushes(_ count: Int) {
        for identifier in 0..<UInt64(count) { ring.put(RawRequest(operation: 3, identifier: identifier)) }
        ring.publish()
    }

    /// A guest on the same processor never runs beside the backend, which takes more and more at once.
    private func growChunk() {
        for _ in 0..<20 {
            putFlushes(16)
            settle()
            endAll()
            settle()
            _ = answers()
        }
    }

    /// Lets the backend do what it can and go to sleep.
    func settle() {
        deliver()
        for _ in 0..<200 where backend.isReady { backend.step() }
    }

    /// Lets the backend do one turn that takes something.
    func takeAll() {
        deliver()
        for _ in 0..<200 where backend.engine.underWay == 0 && backend.isReady { backend.step() }
    }

    private func deliver() {
        for event in platform.deliverable { event.deliver() }
    }

    func endOne() {
        var random = SeededRandom(seed: 1)
        while backend.engine.isBusy, !backend.engine.hasCompletions { backend.engine.step(&random) }
    }

    func endAll() {
        var random = SeededRandom(seed: 1)
        while backend.engine.isBusy { backend.engine.step(&random) }
    }

    private func answers() -> Int {
        var count = 0
        _ = ring.serve { _ in count += 1 }
        return count
    }

    /// How many answers each turn showed.
    func answersAfterTurns(_ turns: Int) -> [Int] {
        var shown: [Int] = []
        while shown.count < turns, backend.isReady {
            backend.step()
            let count = answers()
            if count > 0 { shown.append(count) }
        }
        return shown
    }
}
