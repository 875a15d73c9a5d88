import Descriptors
import Glibc
import ScenarioWorld
import SharedRing
import Testing
import XenWire

/// A process that is killed between any two stores of its recovery leaves a journal from which the next one recovers the
/// same.
@Suite(.enabled(if: KillSwitch.watchesStores)) struct RecoveryKillTests {
    /// How far the dead process had come with four answers to eight requests.
    enum Reached: CaseIterable {
        case marked, visible, committed, partlyReleased
        var published: UInt32 { self == .marked ? 1000 : 1004 }
    }

    @Test(arguments: Reached.allCases) func aRecoveryCanBeKilledAnywhere(reached: Reached) throws {
        let file = try JournalFile(reached)
        let expected = try file.recover().get()
        var kills = 0
        while kills < 1000 {
            file.reset()
            let killSwitch = KillSwitch()
            killSwitch.arm(after: kills + 1, watchingStores: true)
            _ = killSwitch.run(file.memory) { file.recover() }
            guard killSwitch.isHit else { break }
            kills += 1
            let second = file.recover()
            #expect(throws: Never.self, "killed before store \(kills)") { try second.get() }
            #expect((try? second.get()) == expected, "killed before store \(kills)")
        }
        #expect(kills > 10 && kills < 1000)
    }
}

/// What is recovered.
private struct Recovered: Equatable {
    let consumed: UInt32
    let backlog: [UInt16]
    let issued: [Bool]
    let inUse: Int
    /// Free entries have no mark.
    let marks: [Bool]
}

/// The journal that a dead process left, which can be put back.
@safe private final class JournalFile {
    let memory: KillSwitch.Persistent
    private let file: MappedFile
    private let journal: Journal
    private let original: UnsafeMutableRawPointer
    private let ring: UnsafeMutableRawBufferPointer
    private let published: UInt32

    init(_ reached: RecoveryKillTests.Reached) throws {
        let path = "/dev/shm/xen-recovery-\(getpid())-\(reached)"
        defer { unsafe unlink(path) }
        file = try MappedFile(creating: path, bytes: 3 * 4096)
        unsafe ring = .allocate(byteCount: 4096, alignment: 4096)
        unsafe ring.initializeMemory(as: UInt8.self, repeating: 0)
        memory = unsafe KillSwitch.Persistent(journal: file, ring: ring)
        journal = Journal(making: file, for: JournalIdentity([]))
        published = reached.published
        unsafe original = .allocate(byteCount: file.count, alignment: 8)
        Self.fill(journal, reached)
        unsafe memcpy(original, file.base, file.count)
    }

    deinit {
        unsafe original.deallocate()
        unsafe ring.deallocate()
    }

    private static func fill(_ journal: Journal, _ reached: RecoveryKillTests.Reached) {
        var table = InFlightTable(entries: 32, abi: BlockABI.native.rawValue, startingAt: 1000, in: journal)
        let indices = (0..<8).compactMap { _ in table.allocate() }
        for index in indices { table.markInFlight(index) }
        table.noteConsumed()
        for index in indices where index % 2 == 0 { table.markIssued(index) }
        for (number, index) in indices.reversed().prefix(4).enumerated() {
            table.markAnswered(index, response: 1000 + UInt32(number), status: 0)
        }
        guard reached == .committed || reached == .partlyReleased else { return }
        table.noteCommitted(1004)
        if reached == .partlyReleased { for _ in 0..<2 { _ = table.releaseAnswered() } }
    }

    func reset() { unsafe memcpy(file.base, original, file.count) }

    func recover() -> Result<Recovered, JournalRefusal> {
        Result { () throws(JournalRefusal) in
            var table = try InFlightTable(
                recovering: journal, entries: 32, abi: BlockABI.native.rawValue, published: published)
            let backlog = table.backlog()
            return Recovered(
                consumed: table.consumed, backlog: backlog, issued: backlog.map { table.isIssued($0) },
                inUse: table.inUse, marks: (0..<32).map { table.isIssued($0) })
        }
    }
}
