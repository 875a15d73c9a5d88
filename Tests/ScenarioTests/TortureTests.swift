import ScenarioWorld
import Testing

/// A process that is killed at any step, and guests that must not notice. `make torture` does a great deal more of it.
@Suite struct TortureTests {
    @Test(arguments: TorturePlan.all) func guestsDoNotNoticeKills(plan: TorturePlan) throws {
        var tally = TortureWorld.Tally()
        for seed in Seeds.some(6) {
            let world = try TortureWorld(plan, seed: seed)
            if let complaint = world.run() {
                Issue.record("\(plan), seed \(seed): \(complaint); torture --plan '\(plan)' --seed \(seed) --worlds 1")
                return
            }
            tally += world.tally
        }
        #expect(tally.kills > 10 && tally.insideSteps > 5 && tally.insideSteps < tally.kills)
    }

    @Test(arguments: TorturePlan.all) func theSameSeedGivesTheSameHistory(plan: TorturePlan) throws {
        let digests = try (0..<2).map { _ in
            let world = try TortureWorld(plan, seed: 1)
            _ = world.run()
            return [world.digest, UInt64(world.tally.steps), UInt64(world.tally.kills)]
        }
        #expect(digests[0] == digests[1])
    }

    /// What is broken on purpose is found, or the checker would be worth nothing.
    @Test(arguments: Mutant.allCases) func mutantsAreFound(mutant: Mutant) throws {
        let plan = try #require(TorturePlan.all.first { $0.name == mutant.victim })
        let found = try (1...UInt64(mutant.seeds)).first {
            try TortureWorld(plan, seed: $0, mutant: mutant).run() != nil
        }
        #expect(found != nil, "not in \(mutant.seeds) seeds of '\(plan)'")
    }
}
