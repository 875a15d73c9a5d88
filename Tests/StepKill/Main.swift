import ArgumentParser
import CStepKill
import Glibc

/// Kills the backend at any instruction, and looks whether the guest notices.
///
/// A process that serves a queue, with the code of the daemon, is run instruction by instruction. Wherever it stands a
/// copy of it, same memory and same registers, is killed; the guest may go on; further processes recover and finish; and
/// then every request must have been answered once, with what a disk may say. After that the ring, the journal, the
/// guest and the disk are put back to that instruction, and the process is stepped on.
@main
enum Main {
    static func main() {
        unsafe step_prepare(CommandLine.unsafeArgv)
        // Before anything depends on the options: they must not decide how many instructions the processes need.
        let rig = Result { try Rig() }
        do {
            try StepKill.parseOrExit().run(rig.get())
        } catch {
            StepKill.exit(withError: error)
        }
    }
}

struct StepKill: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step-kill",
        abstract: "SIGKILL at any instruction of a queue's work, and what the guest sees of it.")

    @Option(help: "Stop after so many kills.")
    var kills = 100_000
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
        guard let mutant, Mutant.named(mutant) == nil else { return }
        throw ValidationError("there is no mutant \(mutant)")
    }

    func run(_ rig: Rig) throws {
        if mutants { return try findMutants(rig) }
        let series = Series(rig, mutant: mutant.flatMap(Mutant.named), isExhaustive: exhaustive, isQuiet: false)
        do {
            try series.run(from: seed, only: at, limit: kills)
        } catch let failure as Series.Found {
            print("FAILED \(failure)")
            throw ExitCode(1)
        }
        print(series.summary)
    }

    private func findMutants(_ rig: Rig) throws {
        var survivors = 0
        for mutant in Mutant.allCases {
            let series = Series(rig, mutant: mutant, isExhaustive: exhaustive, isQuiet: true)
            do {
                try series.run(from: seed, only: nil, limit: kills)
                survivors += 1
                print("SURVIVED \(mutant): \(series.summary)")
            } catch let failure as Series.Found {
                print("found \(mutant) after \(series.tally.allKills) kills: \(failure)")
            }
        }
        if survivors > 0 { throw ExitCode(1) }
    }
}

extension Mutant {
    static func named(_ name: String) -> Mutant? { allCases.first { "\($0)" == name } }
}

/// Passes of one seed after the other.
final class Series {
    private let rig: Rig
    private let mutant: Mutant?
    private let isExhaustive: Bool
    private let isQuiet: Bool
    private(set) var tally = Tally()
    private var passes = 0
    private let start = Series.seconds()

    /// What was found, and how to find it again.
    struct Found: Error, CustomStringConvertible {
        let description: String
    }

    init(_ rig: Rig, mutant: Mutant?, isExhaustive: Bool, isQuiet: Bool) {
        self.rig = rig
        self.mutant = mutant
        self.isExhaustive = isExhaustive
        self.isQuiet = isQuiet
    }

    func run(from first: UInt64, only: Int?, limit: Int) throws {
        var seed = first
        repeat {
            try pass(seed, only, limit)
            seed += 1
        } while only == nil && tally.allKills < limit
    }

    private func pass(_ seed: UInt64, _ only: Int?, _ limit: Int) throws {
        let before = tally.allKills
        // The first of them are turns.
        let isExhaustive = isExhaustive || mutant == nil && seed % 16 == 15
        let pass = Pass(rig, seed: seed, mutant: mutant, isExhaustive: isExhaustive, tally)
        do {
            tally = try pass.run(only: only, limit: limit)
        } catch let failure as Failure {
            rig.herd.killAll()
            tally = pass.soFar
            throw Found(description: "--seed \(seed) --at \(pass.done): \(failure.text)")
        }
        passes += 1
        if !isQuiet { print("seed \(seed): \(pass.description), \(tally.allKills - before) kills") }
    }

    var summary: String {
        let windows = Window.allCases.map { "\($0) \(tally.kills[$0.rawValue])" }.joined(separator: ", ")
        return """
            \(passes) passes, \(tally.allKills) kills (\(windows)), \(tally.runs) histories, \(tally.answers) answers; \
            the longest pass has \(tally.longest) instructions; nothing lost, doubled or corrupt; \
            \(Int(Series.seconds() - start)) s
            """
    }

    private static func seconds() -> Double {
        var now = timespec()
        // `now` lives for the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }
}
