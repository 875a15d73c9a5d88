import Loopback
import SharedRing

/// The region and the two processes of which all others are copies.
final class Rig {
    let region: Region
    let herd = Herd()
    /// Behind `Queue.init` of a ring that nobody has served, and before it on one that was served.
    let first: Tracee
    let later: Tracee
    /// The region as `first` leaves it.
    let genesis = Region.Image()
    let scratch = Region.Image()

    init() throws {
        let region = try Region()
        self.region = region
        _ = Journal(making: region.file, for: JournalIdentity([]))
        Guest.prepare(region)
        first = try Self.process(region, recovers: false)
        region.save(genesis)
        var guest = Guest(SeededRandom(seed: 1), .init())
        for _ in 0..<2 {
            guest.ask(region, 32)
            try Life(region, recovers: true).warmUp()
            try guest.takeAnswers(region)
        }
        region.restore(genesis)
        later = try Self.process(region, recovers: true)
    }

    private static func process(_ region: Region, recovers: Bool) throws -> Tracee {
        try Tracee {
            do {
                try Life(region, recovers: recovers).run()
            } catch {
                fatalError("\(error)")
            }
        }
    }
}

/// What was done so far.
struct Tally {
    /// Kills by where they hit.
    var kills = Array(repeating: 0, count: Window.allCases.count)
    /// Histories that were continued and judged.
    var runs = 0
    /// Instructions of the longest pass.
    var longest = 0
    /// Answers that the guest has taken.
    var answers = 0

    var allKills: Int { kills.reduce(0, +) }
}

/// One seed: a history up to some moment, then a pass, from there until the backend is idle, killed at every instruction
/// or at every so many.
final class Pass {
    /// What the pass consists of.
    enum Kind: Int, CustomStringConvertible {
        /// Turns of a process that serves already.
        case turns
        /// Recovery of a ring at rest, then turns.
        case cleanRecovery
        /// Recovery after one or two kills at random instructions, then turns.
        case dirtyRecovery

        var description: String {
            switch self {
            case .turns: "turns"
            case .cleanRecovery: "clean recovery"
            case .dirtyRecovery: "dirty recovery"
            }
        }
    }

    let kind: Kind
    let stride: Int
    private let seed: UInt64
    private let rig: Rig
    private let mutant: Mutant?
    private var random: SeededRandom
    private var guest: Guest
    private var tally: Tally
    /// Instructions of the pass that are done.
    private(set) var done = 0

    init(_ rig: Rig, seed: UInt64, mutant: Mutant?, isExhaustive: Bool, _ tally: Tally) {
        self.rig = rig
        self.seed = seed
        self.mutant = mutant
        self.tally = tally
        random = SeededRandom(seed: seed)
        kind = mutant == .noClaims ? .turns : Kind(rawValue: Int(seed % 3)) ?? .turns
        let chosen = 20 + random.below(100)
        stride = isExhaustive ? 1 : mutant == .noClaims ? chosen * 8 : chosen
        var habits = Guest.Habits(
            appetite: [3, 6, 12, 32][random.below(4)], busySectors: 1 + random.below(3),
            usesBarriers: random.chance(perThousand: 100))
        // Only a few histories show it: two writes, and between them a read, where they meet.
        if mutant == .noClaims { habits = Guest.Habits(appetite: 12, busySectors: 1, aliases: Life.aliases) }
        guest = Guest(SeededRandom(seed: random.next()), habits)
        rig.region.restore(rig.genesis)
        rig.region.mutant = mutant
    }

    /// Runs the pass; kills at instruction `only`, or until there were `limit` kills.
    func run(only: Int?, limit: Int) throws -> Tally {
        let leader = try begin()
        let acts = acts()
        var target = only ?? 1 + random.below(stride)
        while tally.allKills < limit {
            let isOver = try go(leader, to: target, acts)
            if isOver { break }
            guard try kill(leader) else { break }
            if only != nil { break }
            // Most of `Queue.init` makes tables in the process' own memory.
            target += rig.region.hasRecovered || stride == 1 ? stride : stride * 8
        }
        rig.herd.kill(leader)
        tally.longest = max(tally.longest, done)
        return tally
    }

    // MARK: Before the pass

    /// The history before; the process that the pass is of.
    private func begin() throws -> Tracee {
        var life = try start(rig.first)
        for _ in 0..<random.below(4) {
            guest.ask(rig.region, 1 + random.below(12))
            try serve(life)
        }
        switch kind {
        case .turns: break
        case .cleanRecovery: life = try succeed(life)
        case .dirtyRecovery:
            life = try interrupt(life, in: [.idle])
            if random.chance(perThousand: 500) { life = try interrupt(life) }
        }
        guest.ask(rig.region, 1 + random.below(32))
        return life
    }

    /// Kills the process and starts another.
    private func succeed(_ life: Tracee) throws -> Tracee {
        rig.herd.kill(life)
        mutant?.tamper(rig.region)
        rig.region.hasRecovered = false
        return try start(rig.later)
    }

    private func start(_ template: Tracee) throws -> Tracee {
        rig.region.order = random.next()
        guard let life = try rig.herd.copy(of: template) else { throw Failure("a process does not stay stopped") }
        return life
    }

    /// Kills a process at some instruction, and starts another; the guest may go on meanwhile.
    ///
    /// - Parameter stops: where it may be let run to before instructions are counted; `idle`: nowhere.
    private func interrupt(_ life: Tracee, in stops: [Region.Stop] = Region.Stop.allCases) throws -> Tracee {
        guest.ask(rig.region, random.below(8))
        rig.region.stop = stops[random.below(stops.count)]
        if rig.region.stop != .idle, case .ended(let why) = life.resume() { throw ended(why) }
        rig.region.stop = .idle
        if case .ended(let why) = life.advance(random.below(Self.span)).outcome { throw ended(why) }
        tally.kills[Window(rig.region).rawValue] += 1
        rig.herd.kill(life)
        if random.chance(perThousand: 500) { try guest.goOn(rig.region) }
        return try succeed(life)
    }

    /// Instructions within which a random kill hits.
    private static let span = 10_000

    /// Where in the pass the guest goes on while the backend works.
    private func acts() -> [Int] {
        var place = 0
        return (0..<random.below(8)).map { _ in
            place += 1 + random.below(Self.span / 4)
            return place
        }
    }

    // MARK: The pass

    /// Steps to an instruction, with the guest's acts on the way; true if the pass ends before.
    private func go(_ leader: Tracee, to target: Int, _ acts: [Int]) throws -> Bool {
        for stop in acts.filter({ $0 > done && $0 < target }) + [target] {
            let (steps, outcome) = leader.advance(stop - done)
            done += steps
            switch outcome {
            case .stopped: return true
            case .ended(let why): throw ended(why)
            case .stepped: break
            }
            if acts.contains(done) { try guest.goOn(rig.region) }
        }
        return false
    }

    /// A copy of the process dies here. Once all that follows is judged, everything is as before. False if the process has
    /// come to its end.
    private func kill(_ leader: Tracee) throws -> Bool {
        guard let victim = try rig.herd.copy(of: leader) else { return false }
        rig.region.save(rig.scratch)
        let kept = (guest, random)
        tally.kills[Window(rig.region).rawValue] += 1
        rig.herd.kill(victim)
        random = SeededRandom(seed: seed << 32 ^ UInt64(done))
        guest.random = SeededRandom(seed: random.next())
        try goOn(after: victim)
        (guest, random) = kept
        rig.region.restore(rig.scratch)
        return true
    }

    private func goOn(after victim: Tracee) throws {
        if random.chance(perThousand: 500) { try guest.goOn(rig.region) }
        var life = try succeed(victim)
        if random.chance(perThousand: 5) { life = try interrupt(life) }
        try serve(life)
        for _ in 0..<random.below(3) {
            if random.chance(perThousand: 250) { life = try succeed(life) }
            guest.ask(rig.region, 1 + random.below(6))
            try serve(life)
        }
        rig.herd.kill(life)
        try guest.finish(rig.region)
        tally.runs += 1
        tally.answers += guest.answered
    }

    /// Lets a process run until it is idle.
    private func serve(_ life: Tracee) throws {
        if case .ended(let why) = life.resume() { throw ended(why) }
        try guest.takeAnswers(rig.region)
    }

    private func ended(_ why: String) -> Failure {
        let text = rig.region.text
        return Failure(text.isEmpty ? "the backend ended: \(why)" : text)
    }

    var description: String {
        let places = stride == 1 ? "at every one" : "every \(stride) or so"
        return "\(kind), \(done) instructions, \(places)"
    }

    /// The pass so far, when it failed.
    var soFar: Tally { tally }
}
