import CXen
import Descriptors
import Glibc
import SharedRing
import XenWire

/// A journal as a killed process might have left it, with bytes changed at will: what is in it is refused or recovered, and
/// what is recovered fits together.
///
/// The first byte says how the rest is meant: as changes to a sound journal (offset u16, byte u8; the checksum is made
/// right again), or as the body itself.
final class JournalFuzz: Sendable {
    private static let entries = 32
    private let file: MappedFile
    private let sound: [UInt8]
    private let identity = JournalIdentity([.init("device", "vbd-5-51712"), .init("boot", "b")])

    init() throws {
        let path = "/dev/shm/fuzz-journal-\(getpid())"
        let bytes = Journal.headerSize + 8192
        file = try MappedFile(creating: path, bytes: bytes)
        _ = unsafe unlink(path)
        sound = Self.makeSound(file, identity)
    }

    /// Requests in all states, around the wrap of the ring's indices.
    private static func makeSound(_ file: MappedFile, _ identity: JournalIdentity) -> [UInt8] {
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
        // The file's own bytes.
        return unsafe Array(UnsafeRawBufferPointer(start: file.base, count: file.count))
    }

    func judge(_ input: UnsafeRawBufferPointer) {
        guard input.count >= 5 else { return }
        unsafe file.base.copyMemory(from: sound, byteCount: sound.count)
        let published = unsafe input.loadUnaligned(fromByteOffset: 1, as: UInt32.self)
        let rest = unsafe Array(input.dropFirst(5))
        let isWhole = unsafe input[0] & 1 == 1
        if isWhole { setBody(rest) } else { change(rest) }
        // Near the wrap most often, where the sound journal is.
        recover(published: unsafe input[0] & 2 == 0 ? 0xFFFF_FFF8 &+ (published & 31) : published)
    }

    private func setBody(_ bytes: [UInt8]) {
        let count = min(bytes.count, file.count - Journal.headerSize)
        unsafe (file.base + Journal.headerSize).copyMemory(from: bytes, byteCount: count)
    }

    private func change(_ bytes: [UInt8]) {
        for start in stride(from: 0, to: bytes.count - 2, by: 3) {
            let offset = (Int(bytes[start]) | Int(bytes[start + 1]) << 8) % file.count
            unsafe file.base.storeBytes(of: bytes[start + 2], toByteOffset: offset, as: UInt8.self)
        }
        // Else hardly anything would come as far as the identity.
        let length = min(Int(unsafe file.base.load(fromByteOffset: 12, as: UInt32.self)), Journal.headerSize - 128)
        var sum: UInt64 = 0xcbf2_9ce4_8422_2325
        for index in 0..<length {
            sum = unsafe (sum ^ UInt64(file.base.load(fromByteOffset: 128 + index, as: UInt8.self))) &* 0x100_0000_01b3
        }
        unsafe file.base.storeBytes(of: sum, toByteOffset: 16, as: UInt64.self)
    }

    private func recover(published: UInt32) {
        do throws(JournalRefusal) {
            let journal = try Journal(reading: file)
            _ = journal.identity.difference(from: identity)
            _ = (journal.faults, journal.condemned, journal.mustGoAlone, InFlightTable.hasOpen(journal))
            let first = try table(journal, published)
            let again = try table(journal, published)
            precondition(first == again, "a recovery that is repeated finds something else")
        } catch {
            _ = "\(error)"
        }
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
