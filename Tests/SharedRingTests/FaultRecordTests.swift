import Descriptors
import Glibc
import SharedRing
import Testing

/// What a fault's handler counts, and what the next process makes of it.
@Suite struct FaultRecordTests {
    private let journal: Journal

    init() throws {
        let path = "/dev/shm/fault-record-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        journal = Journal(making: try MappedFile(creating: path, bytes: 8192), for: JournalIdentity([]))
        _ = unsafe unlink(path)
    }

    /// As the handler does.
    private func fault() {
        let record = unsafe journal.faultRecord.assumingMemoryBound(to: UInt32.self)
        unsafe record[0] += 1
        if unsafe record[1] != 0 { unsafe record[2] = record[1] }
    }

    @Test func `two faults in a row, then the one that faults alone`() {
        fault()
        #expect(!journal.mustGoAlone)
        fault()
        #expect(journal.mustGoAlone && journal.condemned == nil)
        journal.goAlone(7)
        fault()
        #expect(journal.condemned == 7)
    }

    /// Else a backlog of many such requests would cost the guest its device.
    @Test func `each condemned entry is counted for itself`() {
        for _ in 0..<2 { fault() }
        for entry in UInt16(0)..<20 {
            journal.goAlone(entry)
            fault()
            #expect(journal.condemned == entry)
            journal.absolve()
            #expect(journal.faults == 2 && journal.condemned == nil)
        }
    }

    @Test func `a mark that somebody left condemns nobody`() {
        journal.goAlone(3)
        Journal.recordingFaults(in: journal) { fault() }
        #expect(journal.faults == 1 && journal.condemned == nil)
        journal.goAlone(4)
        journal.absolve()
        fault()
        #expect(journal.condemned == nil)
    }
}
