import ArgumentParser
import CStepKill
import Glibc

/// Kills the backend at any instruction, and looks whether the guest notices.
///
/// A process that serves rings, with the code of the daemons, is run instruction by instruction. Wherever it stands a
/// copy of it, same memory and same registers, is killed; the guest may go on; further processes recover and finish; and
/// then every request must have been answered once, with what a disk may say, and every packet been sent. After that the
/// rings, the journals, the guest and the disk are put back to that instruction, and the process is stepped on.
@main
enum Main {
    static func main() {
        unsafe step_prepare(CommandLine.unsafeArgv)
        // Before anything depends on the options: they must not decide how many instructions the processes need.
        let rigs = Result { try Rings.allCases.map(Rig.init) }
        do {
            try StepKill.parseOrExit().run(rigs.get())
        } catch {
            StepKill.exit(withError: error)
        }
    }
}

struct StepKill: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step-kill",
        abstract: "SIGKILL at any instruction of a queue's work, and what the guest sees of it.")

    @Option(help: "Stop after so many kills, all kinds of rings together; with --mutants, for each.")
    var kills = 100_000
    @Option(help: "Only these rings: \(Rings.allCases.map(\.rawValue).joined(separator: ", ")).")
    var rings: Rings?
    @Option(help: "The first seed.")
    var seed: UInt64 = 1
    @Option(help: "Kill at this instruction of the seed's pass only.")
    var at: Int?
    @Flag(help: "Kill at every instruction: else only each sixteenth seed does, others take strides.")
    var exhaustive = false
    @Option(help: "Break something, and find it: \(Mutant.allCases.map { "\($0)" }.joined(separator: ", ")).")
    var mutant: String?
    @Flag(help: "All mutants must be found, each within so many kills.")
    var mutants = false

    func validate() throws {
        guard at == nil || rings != nil else { throw ValidationError("--at is an instruction of which --rings?") }
        guard let mutant, Mutant.named(mutant) == nil else { return }
        throw ValidationError("there is no mutant \(mutant)")
    }

    func run(_ all: [Rig]) throws {
        let chosen = mutant.flatMap(Mutant.named)
        let rigs = all.filter { (rings ?? $0.rings) == $0.rings && chosen?.rings.contains($0.rings) ?? true }
        if mutants { return try findMutants(rigs) }
        for rig in rigs {
            let series = Series(rig, mutant: chosen, isExhaustive: exhaustive, isQuiet: false)
            do {
                try series.run(from: seed, only: at, limit: (kills + rigs.count - 1) / rigs.count)
            } catch let failure as Series.Found {
                print("FAILED \(failure)")
                throw ExitCode(1)
            }
            print(series.summary)
        }
    }

    private func findMutants(_ rigs: [Rig]) throws {
        var survivors = 0
        for rig in rigs {
            for mutant in Mutant.allCases where mutant.rings.contains(rig.rings) {
                if try !find(mutant, rig) { survivors += 1 }
            }
        }
        if survivors > 0 { throw ExitCode(1) }
    }

    private func find(_ mutant: Mutant, _ rig: Rig) throws -> Bool {
        let series = Series(rig, mutant: mutant, isExhaustive: exhaustive, isQuiet: true)
        do {
            try series.run(from: seed, only: nil, limit: kills)
            print("SURVIVED \(mutant): \(series.summary)")
            return false
        } catch let failure as Series.Found {
            print("found \(mutant) after \(series.tally.allKills) kills: \(failure)")
            return true
        }
    }
}

extension Mutant {
    static func named(_ name: String) -> Mutant? { allCases.first { "\($0)" == name } }
}
