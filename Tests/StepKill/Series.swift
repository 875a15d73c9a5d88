import Glibc

/// What was done so far.
struct Tally {
    /// Kills by the window that they hit.
    var kills: [Int]
    /// Histories that were continued and judged.
    var runs = 0
    /// Instructions of the longest pass.
    var longest = 0
    /// Answers that the guest has taken.
    var answers = 0

    var allKills: Int { kills.reduce(0, +) }
}

/// Passes of one seed after the other.
final class Series {
    private let rig: Rig
    private let mutant: Mutant?
    private let isExhaustive: Bool
    private let isQuiet: Bool
    private(set) var tally: Tally
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
        tally = Tally(kills: rig.world.windows.map { _ in 0 })
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
            tally = try mutant?.isRare ?? false ? pass.runCoarsely() : pass.run(only: only, limit: limit)
        } catch let failure as Failure {
            rig.herd.killAll()
            tally = pass.soFar
            throw Found(description: "--rings \(rig.rings.rawValue) --seed \(seed) --at \(pass.done): \(failure.text)")
        }
        passes += 1
        if !isQuiet {
            print("\(rig.rings.rawValue), seed \(seed): \(pass.description), \(tally.allKills - before) kills")
        }
    }

    var summary: String {
        let windows = zip(rig.world.windows, tally.kills).map { "\($0.name) \($1)" }.joined(separator: ", ")
        return """
            \(rig.rings.rawValue): \(passes) passes, \(tally.allKills) kills (\(windows)), \(tally.runs) histories, \
            \(tally.answers) answers; the longest pass has \(tally.longest) instructions; nothing lost, doubled or \
            corrupt; \(Int(Series.seconds() - start)) s
            """
    }

    private static func seconds() -> Double {
        var now = timespec()
        // `now` lives for the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }
}
