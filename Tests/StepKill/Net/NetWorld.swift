import Loopback

/// A network interface's queue pair.
final class NetWorld: World {
    private let memory: NetRegion
    /// Where most packets go.
    private let side: NetSide
    var region: Region { memory }

    init(_ side: NetSide) throws {
        memory = try NetRegion()
        self.side = side
    }

    let windows = NetWindow.allCases.map { window in
        WindowKind(name: "\(window)", looks: window.looks, isTelling: window == .answering)
    }
    var window: Int { NetWindow(memory).rawValue }
    /// Responses are written in few instructions.
    var fineness: Int { 8 }

    func life(recovers: Bool) throws -> any Life { try NetLife(memory, recovers: recovers) }

    func guest(_ random: inout SeededRandom) -> any Guest {
        let habits = NetGuest.Habits(
            appetite: [2, 4, 8, 16][random.below(4)], transmits: side == .transmit ? 850 : 150)
        return NetGuest(memory, SeededRandom(seed: random.next()), habits)
    }

    func tamper(_ mutant: Mutant) { mutant.tamper(memory.ring(side), side) }
}

/// Between which steps of the decision on network journals a kill hit.
enum NetWindow: Int, CaseIterable {
    /// The queue is not made.
    case recovery
    /// The same, and there is something to put back.
    case restoring
    /// T4-T5: responses of one of the rings are written and not visible.
    case answering
    /// T2-T4: a batch is noted, and nothing of it overwritten.
    case noted
    /// T5-T6: responses are visible, and the guest was not told.
    case published
    /// Nothing is being answered.
    case between

    var looks: Int {
        switch self {
        case .answering, .published: 1
        case .restoring: 4
        case .between: 12
        case .recovery, .noted: 24
        }
    }

    init(_ region: NetRegion) {
        let noted = NetSide.allCases.map(region.ring).filter(\.isNoted)
        self =
            if !region.hasRecovered {
                noted.isEmpty ? .recovery : .restoring
            } else if noted.contains(where: { $0.written > 0 }) {
                .answering
            } else if NetSide.allCases.contains(where: { region.ring($0).owesEvent && !region.hasEvent($0.rawValue) }) {
                .published
            } else {
                noted.isEmpty ? .between : .noted
            }
    }
}
