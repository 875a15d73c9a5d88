import CXen
import Glibc
import SharedRing

/// What would be wrong with a backend; each must be found. The backend itself is always the real one: a mutant changes
/// what a killed process leaves, as if it had worked in another order, or what surrounds the queue.
enum Mutant: UInt32, CaseIterable {
    /// P1 is left out: an answer about to be given is in flight.
    case noAnsweredState = 1
    /// P5 comes before P4.
    case committedLate
    /// F3 comes before F2.
    case consumedFirst
    /// There is no private copy: what is in flight is read from the ring again.
    case noCopy
    /// P5 comes before P3.
    case freeBeforePublish
    /// Answers that were about to be given are given at recovery, whatever the guest has seen.
    case blindRedo
    /// R6 is left out: no event at recovery.
    case silentRecovery
    /// D1 is left out: writes never conflict.
    case noClaims
    /// Sequences have the ring's 32 bits.
    case narrowSequence
    /// A write is answered while it is in the process' memory.
    case writeBack

    /// Changes what a killed process has left, before the next one starts.
    func tamper(_ region: Region) {
        let window = Window(region)
        switch self {
        case .noAnsweredState: Self.answered(region).forEach { $0.state = .inFlight }
        case .committedLate where window == .releasing:
            region.table.committed = Self.answered(region).map(\.response).min { Self.isBefore($0, $1) } ?? 0
        case .consumedFirst where window == .taking: Self.forgetUnnoted(region.table)
        case .noCopy: Self.copyAgain(region)
        case .freeBeforePublish:
            for entry in Self.answered(region) where !Self.isBefore(entry.response, region.published) {
                entry.state = .free
            }
        case .blindRedo: Self.redo(region)
        case .narrowSequence: Self.narrow(region.table)
        case .committedLate, .consumedFirst, .silentRecovery, .noClaims, .writeBack: break
        }
    }

    private static func answered(_ region: Region) -> [JournaledTable.Entry] {
        region.table.all.filter { $0.state == .answered }
    }

    private static func isBefore(_ index: UInt32, _ other: UInt32) -> Bool { Int32(bitPattern: index &- other) < 0 }

    private static func forgetUnnoted(_ table: JournaledTable) {
        let unnoted = table.all.filter { $0.state == .inFlight && $0.sequence >= table.consumed }
        table.consumed = (unnoted.map(\.sequence).max() ?? 0) + 1
        for entry in unnoted { entry.state = .free }
    }

    private static func copyAgain(_ region: Region) {
        for entry in region.table.all where entry.state == .inFlight {
            // Both have 112 bytes.
            unsafe memcpy(entry.request, region.slot(UInt32(truncatingIfNeeded: entry.sequence)), 112)
        }
    }

    private static func redo(_ region: Region) {
        for entry in answered(region) {
            let slot = unsafe region.slot(entry.response)
            // A response: id, operation, status; an indirect request says the operation in its second byte.
            let operation = unsafe entry.request.load(as: UInt8.self)
            let inner = unsafe entry.request.load(fromByteOffset: 1, as: UInt8.self)
            unsafe slot.storeBytes(of: entry.request.load(fromByteOffset: 8, as: UInt64.self), as: UInt64.self)
            unsafe slot.storeBytes(of: operation == 6 ? inner : operation, toByteOffset: 8, as: UInt8.self)
            unsafe slot.storeBytes(of: entry.status, toByteOffset: 10, as: Int16.self)
            if !isBefore(entry.response, region.published) { region.published = entry.response &+ 1 }
            entry.state = .free
        }
        region.table.committed = region.published
    }

    private static func narrow(_ table: JournaledTable) {
        for entry in table.all where entry.state != .free { entry.sequence &= 0xffff_ffff }
        table.consumed &= 0xffff_ffff
    }
}
