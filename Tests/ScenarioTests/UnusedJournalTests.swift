import BlockBackend
import Descriptors
import Glibc
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

/// A process that was killed after it had made a journal and before its queue had begun has taken nothing from the ring.
@Test func aJournalThatWasNeverUsedIsOneOfAFreshRing() throws {
    let platform = ModelPlatform()
    let scenario = Scenario(name: "unused journal", firstIndex: 0)
    let domain = try platform.createDomain(DomainID(7), pages: 16, references: 16)
    let ring = try GuestRing(domain, abi: .native, pages: 1, startingAt: 0)
    let path = "/dev/shm/xen-unused-\(getpid())"
    defer { unsafe unlink(path) }
    let journal = Journal(making: try MappedFile(creating: path, bytes: 3 * 4096), for: JournalIdentity([]))
    ring.put(RawRequest(operation: 3, identifier: 5))
    ring.publish()
    let backend = try Backend(
        scenario, ring, of: DomainID(7), Disk(scenario, recovers: true), platform, Simulation(seed: 1),
        journal: journal,
        recovers: true)
    var random = SeededRandom(seed: 1)
    for _ in 0..<200 {
        for event in platform.deliverable { event.deliver() }
        if backend.isReady { backend.step() }
        if backend.engine.isBusy { backend.engine.step(&random) }
    }
    var answers: [UInt64] = []
    _ = ring.serve { answers.append($0.identifier) }
    #expect(answers == [5])
}
