import CXen
import Descriptors
import Glibc
import SharedRing
import XenWire

/// A block queue's journal as a killed process might have left it, with bytes changed at will: what is in it is refused or
/// recovered, and what is recovered fits together.
final class JournalFuzz: Sendable {
    private static let entries = 32
    private let journal: FuzzedFile
    private let identity = JournalIdentity([.init("device", "vbd-5-51712"), .init("boot", "b")])

    init() throws {
        let path = "/dev/shm/fuzz-disk-\(getpid())"
        let file = try MappedFile(creating: path, bytes: Journal.headerSize + 8192)
        _ = unsafe unlink(path)
        Self.makeSound(file, identity)
        journal = try FuzzedFile(file, path, heads: [0..<32])
    }

    /// Requests in all states, around the wrap of the ring's indices.
    private static func makeSound(_ file: MappedFile, _ identity: JournalIdentity) {
        let journal = Journal(making: file, for: identity)
        var table = InFlightTable(
            entries: UInt16(entries), abi: BlockABI.native.rawValue, startingAt: 0xFFFF_FFF8, in: journal)
        var taken: [UInt16] = []
        for _ in 0..<20 {
            guard let index = table.allocate() else { break }
            table.markInFlight(index)
            taken.append(index)
        }
        table.noteConsumed()
        for (number, index) in taken.prefix(6).enumerated() {
            table.markAnswered(index, response: 0xFFFF_FFF8 &+ UInt32(number), status: 0)
        }
        for index in taken.suffix(5) { table.markIssued(index) }
    }

    /// The first byte says how the rest is meant.
    func judge(_ input: UnsafeRawBufferPointer) {
        var input = unsafe FuzzInput(input)
        let how = input.byte()
        let number = input.word()
        // Near the wrap most often, where the sound journal is.
        let published = how & 2 == 0 ? 0xFFFF_FFF8 &+ (number & 31) : number
        let length = how & 0xE0 == 0xE0 ? input.half() % journal.file.count : nil
        journal.mend()
        journal.damage(&input, page: how & 1 == 1 ? 0 : nil)
        journal.seal()
        do throws(JournalRefusal) {
            try journal.withCut(to: length) { file throws(JournalRefusal) in try recover(file, published) }
        } catch {
            _ = "\(error)"
        }
    }

    private func recover(_ file: MappedFile, _ published: UInt32) throws(JournalRefusal) {
        let journal = try Journal(reading: file)
        let difference = journal.identity.difference(from: identity)
        precondition(difference != nil || journal.identity.says(identity.facts), "another device's journal")
        _ = (journal.faults, journal.condemned, journal.mustGoAlone, InFlightTable.hasOpen(journal))
        let first = try table(journal, published)
        let again = try table(journal, published)
        precondition(first == again, "a recovery that is repeated finds something else")
    }

    /// What is in flight, checked and looked at as a queue does.
    private func table(_ journal: Journal, _ published: UInt32) throws(JournalRefusal) -> [UInt16] {
        var table = try InFlightTable(
            recovering: journal, entries: UInt16(Self.entries), abi: BlockABI.native.rawValue, published: published)
        let backlog = table.backlog()
        precondition(Set(backlog).count == backlog.count && backlog.allSatisfy { Int($0) < Self.entries })
        precondition(table.consumed &- published == UInt32(backlog.count), "requests that nobody took")
        for index in backlog { decode(&table, index) }
        var free = Set<UInt16>()
        while let index = table.allocate() { free.insert(index) }
        precondition(free.count + backlog.count == Self.entries && free.isDisjoint(with: backlog))
        return backlog
    }

    private func decode(_ table: inout InFlightTable, _ index: UInt16) {
        let limits = RequestLimits(
            indirectSegments: 256, alignmentMask: 0, isReadOnly: false, offersBarrier: true, offersFlush: true,
            offersDiscard: true)
        let request = unsafe table.request(index)
        _ = unsafe BlockRequest.echoedOperation(request)
        _ = unsafe try? BlockRequest.decode(request, within: limits)
    }
}
