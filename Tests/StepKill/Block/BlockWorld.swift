import Loopback

/// A disk and the queues that serve it.
final class BlockWorld: World {
    private let memory: BlockRegion
    var region: Region { memory }

    init(queues: Int) throws { memory = try BlockRegion(queues: queues) }

    let windows = Window.allCases.map { window in
        // Making queues is making tables in the process' own memory, mostly.
        WindowKind(name: "\(window)", looks: window == .recovery ? 8 : 1, isTelling: window.isTelling)
    }
    /// What is most in the middle of something counts.
    var window: Int { (0..<memory.queues).map { Window(memory, $0).rawValue }.min() ?? 0 }
    var fineness: Int { 1 }

    func life(recovers: Bool) throws -> any Life { try BlockLife(memory, recovers: recovers) }

    func guest(_ random: inout SeededRandom) -> any Guest {
        let habits = habits(&random)
        return BlockGuest(memory, SeededRandom(seed: random.next()), habits)
    }

    private func habits(_ random: inout SeededRandom) -> BlockGuest.Habits {
        var habits = BlockGuest.Habits(
            appetite: [3, 6, 12, 32][random.below(4)], busySectors: 1 + random.below(3),
            usesBarriers: random.chance(perThousand: 100))
        guard let mutant = region.mutant, mutant.isRare else { return habits }
        // Two changes, and between them a read, where they meet.
        habits = BlockGuest.Habits(appetite: 12 * memory.queues, busySectors: 1)
        habits.reads = 700
        if mutant == .noClaims { habits.aliases = BlockLife.aliases }
        if mutant == .unclaimedDiscards {
            habits.discardAliases = BlockLife.aliases
            habits.discards = 150
        }
        return habits
    }

    func tamper(_ mutant: Mutant) {
        for queue in 0..<memory.queues { mutant.tamper(memory, queue) }
    }
}
