import CXen
import Glibc
import SharedRing

extension Mutant {
    /// Changes what a killed process has left of a disk's queue.
    func tamper(_ region: BlockRegion, _ queue: Int) {
        let window = Window(region, queue)
        let table = region.table(queue)
        switch self {
        case .noAnsweredState: Self.answered(table).forEach { $0.state = .inFlight }
        case .committedLate where window == .releasing:
            table.committed = Self.answered(table).map(\.response).min { Self.isBefore($0, $1) } ?? 0
        case .consumedFirst where window == .taking: Self.forgetUnnoted(table)
        case .noCopy: Self.copyAgain(region, queue)
        case .freeBeforePublish:
            for entry in Self.answered(table) where !Self.isBefore(entry.response, region.published(queue)) {
                entry.state = .free
            }
        case .blindRedo: Self.redo(region, queue)
        case .narrowSequence: Self.narrow(table)
        case .unmarked: table.all.forEach { $0.isIssued = false }
        default: break
        }
    }

    private static func answered(_ table: JournaledTable) -> [JournaledTable.Entry] {
        table.all.filter { $0.state == .answered }
    }

    private static func isBefore(_ index: UInt32, _ other: UInt32) -> Bool { Int32(bitPattern: index &- other) < 0 }

    private static func forgetUnnoted(_ table: JournaledTable) {
        let unnoted = table.all.filter { $0.state == .inFlight && $0.sequence >= table.consumed }
        table.consumed = (unnoted.map(\.sequence).max() ?? 0) + 1
        for entry in unnoted { entry.state = .free }
    }

    private static func copyAgain(_ region: BlockRegion, _ queue: Int) {
        for entry in region.table(queue).all where entry.state == .inFlight {
            // Both have 112 bytes.
            unsafe memcpy(entry.request, region.slot(queue, UInt32(truncatingIfNeeded: entry.sequence)), 112)
        }
    }

    private static func redo(_ region: BlockRegion, _ queue: Int) {
        for entry in answered(region.table(queue)) {
            let slot = unsafe region.slot(queue, entry.response)
            // A response: id, operation, status; an indirect request says the operation in its second byte.
            let operation = unsafe entry.request.load(as: UInt8.self)
            let inner = unsafe entry.request.load(fromByteOffset: 1, as: UInt8.self)
            unsafe slot.storeBytes(of: entry.request.load(fromByteOffset: 8, as: UInt64.self), as: UInt64.self)
            unsafe slot.storeBytes(of: operation == 6 ? inner : operation, toByteOffset: 8, as: UInt8.self)
            unsafe slot.storeBytes(of: entry.status, toByteOffset: 10, as: Int16.self)
            if !isBefore(entry.response, region.published(queue)) { region.publish(queue, entry.response &+ 1) }
            entry.state = .free
        }
        region.table(queue).committed = region.published(queue)
    }

    private static func narrow(_ table: JournaledTable) {
        for entry in table.all where entry.state != .free { entry.sequence &= 0xffff_ffff }
        table.consumed &= 0xffff_ffff
    }
}
