import ArgumentParser
import ScenarioWorld

/// `make torture`: worlds from consecutive seeds, until so many requests are answered or something is wrong.
@main struct Torture: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Kills a block backend at every step under overlapping requests, and checks what the guests saw.")

    @Option(help: "Requests to be answered, at least.") var operations = 1_000_000
    @Option(help: "The first seed; one that failed is repeated with --worlds 1.") var seed: UInt64 = 1
    @Option(help: "Worlds at most.") var worlds = Int.max
    @Option(help: "Only this scenario.") var plan: String?
    @Option(help: "Break something on purpose, which must be found.") var mutant: String?
    @Flag(help: "Say what each scenario costs.") var verbose = false

    func validate() throws {
        guard plan.map({ name in TorturePlan.all.contains { $0.name == name } }) ?? true else {
            throw ValidationError("scenarios: \(TorturePlan.all.map(\.name))")
        }
        guard mutant.map({ Mutant(rawValue: $0) != nil }) ?? true else {
            throw ValidationError("mutants: \(Mutant.allCases.map(\.rawValue))")
        }
    }

    func run() throws {
        let clock = ContinuousClock()
        let start = clock.now
        var (tally, number) = (TortureWorld.Tally(), 0)
        while tally.answered < operations, number < worlds {
            let seed = self.seed &+ UInt64(number)
            let began = clock.now
            let (world, plan) = try makeWorld(seed)
            let complaint = world.run()
            tally += world.tally
            number += 1
            if verbose { print("\(seed) \(plan): \(world.tally.answered) in \(clock.now - began)") }
            if let complaint { try fail(complaint, plan, seed) }
        }
        report(tally, number, clock.now - start)
    }

    private func makeWorld(_ seed: UInt64) throws -> (TortureWorld, TorturePlan) {
        let plans = TorturePlan.all.filter { plan == nil || $0.name == plan }
        let chosen = plans[Int(seed % UInt64(plans.count))]
        let mutant = mutant.flatMap { Mutant(rawValue: $0) }
        return (try TortureWorld(chosen, seed: seed, mutant: mutant), chosen)
    }

    private func fail(_ complaint: String, _ plan: TorturePlan, _ seed: UInt64) throws {
        let only = self.plan.map { _ in " --plan '\(plan)'" } ?? ""
        print("VIOLATION in '\(plan)', --seed \(seed) --worlds 1\(only): \(complaint)")
        throw ExitCode(1)
    }

    private func report(_ tally: TortureWorld.Tally, _ worlds: Int, _ duration: Duration) {
        let seconds = Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
        print(
            """
            \(tally.answered) requests answered, \(tally.refused) with an error, in \(worlds) worlds, seeds \(seed) to \(seed &+ UInt64(worlds) &- 1)
            \(tally.kills) kills: \(tally.insideSteps) inside a step, \(tally.atStores) of those between two stores; \
            \(tally.whileRecovering) during a recovery, \(tally.faults) faults
            \(Int(seconds)) s, \(Int(Double(tally.answered) / max(seconds, 0.001))) requests/s
            no violation
            """)
    }
}
