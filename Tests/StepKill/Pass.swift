import Loopback

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
    private let stride: Int
    private let isExhaustive: Bool
    private let seed: UInt64
    private let rig: Rig
    private var region: Region { rig.world.region }
    private let mutant: Mutant?
    private var random: SeededRandom
    private var guest: any Guest
    private var tally: Tally
    /// Instructions of the pass that are done.
    private(set) var done = 0
    /// Looks at the window since the last kill, and kills.
    private var looks = 0
    private var kills = 0

    /// After so many kills strides get twice as long: of many histories more is seen than of one.
    private static let killsPerStride = 200

    init(_ rig: Rig, seed: UInt64, mutant: Mutant?, isExhaustive: Bool, _ tally: Tally) {
        self.rig = rig
        self.seed = seed
        self.mutant = mutant
        self.isExhaustive = isExhaustive
        self.tally = tally
        random = SeededRandom(seed: seed)
        kind = mutant?.isRare ?? false ? .turns : Kind(rawValue: Int(seed % 3)) ?? .turns
        let chosen = (20 + random.below(100)) / rig.world.fineness
        stride = mutant == nil ? chosen : chosen * 4
        rig.world.region.restore(rig.genesis)
        rig.world.region.mutant = mutant
        guest = rig.world.guest(&random)
    }

    /// Kills once, between two turns, which needs no steps.
    func runCoarsely() throws -> Tally {
        let life = try begin()
        region.stop = .turn
        for _ in 0...random.below(8) {
            try guest.goOn()
            if case .ended(let why) = life.resume() { throw ended(why) }
        }
        region.stop = .idle
        tally.kills[rig.world.window] += 1
        rig.herd.kill(life)
        try goOn(after: life)
        return tally
    }

    /// Runs the pass; kills at instruction `only`, or until there were `limit` kills.
    func run(only: Int?, limit: Int) throws -> Tally {
        let leader = try begin()
        let acts = acts()
        var target = only ?? 1 + random.below(stride)
        while tally.allKills < limit {
            let isOver = try go(leader, to: target, acts)
            if isOver { break }
            if only != nil || isDue(), try !kill(leader) || only != nil { break }
            target += isExhaustive ? 1 : stride << (kills / Self.killsPerStride)
        }
        rig.herd.kill(leader)
        tally.longest = max(tally.longest, done)
        return tally
    }

    /// Where the process stands a kill is worth while.
    private func isDue() -> Bool {
        looks += 1
        guard isExhaustive || looks >= rig.world.windows[rig.world.window].looks else { return false }
        looks = 0
        kills += 1
        return true
    }

    // MARK: Before the pass

    /// The history before; the process that the pass is of.
    private func begin() throws -> Tracee {
        var life = try start(rig.first)
        for _ in 0..<random.below(4) {
            guest.ask(1 + random.below(12))
            try serve(life)
        }
        switch kind {
        case .turns: break
        case .cleanRecovery: life = try succeed(life)
        case .dirtyRecovery:
            life = try interrupt(life, in: [.idle])
            if random.chance(perThousand: 500) { life = try interrupt(life) }
        }
        guest.ask(1 + random.below(32))
        return life
    }

    /// Kills the process and starts another.
    private func succeed(_ life: Tracee) throws -> Tracee {
        rig.herd.kill(life)  // unless it is dead already
        try guest.noteDeath()
        if let mutant { rig.world.tamper(mutant) }
        region.hasRecovered = false
        return try start(rig.later)
    }

    private func start(_ template: Tracee) throws -> Tracee {
        region.order = random.next()
        guard let life = try rig.herd.copy(of: template) else { throw Failure("a process does not stay stopped") }
        return life
    }

    /// Kills a process at some instruction, and starts another; the guest may go on meanwhile.
    ///
    /// - Parameter stops: where it may be let run to before instructions are counted; `idle`: nowhere.
    private func interrupt(_ life: Tracee, in stops: [Region.Stop] = [.idle, .mapping, .recovered]) throws -> Tracee {
        guest.ask(random.below(8))
        region.stop = stops[random.below(stops.count)]
        if region.stop != .idle, case .ended(let why) = life.resume() { throw ended(why) }
        region.stop = .idle
        try advanceAnywhere(life)
        tally.kills[rig.world.window] += 1
        rig.herd.kill(life)
        if random.chance(perThousand: 500) { try guest.goOn() }
        return try succeed(life)
    }

    /// To any instruction, or to one where something is half done, if that is near.
    private func advanceAnywhere(_ life: Tracee) throws {
        let isAimed = random.chance(perThousand: 500)
        var goesOn = try advance(life, isAimed ? Self.span / 8 : Self.span)
        guard isAimed else { return }
        for _ in 0..<Self.span / Self.step where goesOn && !rig.world.windows[rig.world.window].isTelling {
            goesOn = try advance(life, Self.step)
        }
        if goesOn { _ = try advance(life, 4 * Self.step) }
    }

    /// So many instructions at most; false if the process has stopped before.
    private func advance(_ life: Tracee, _ most: Int) throws -> Bool {
        let outcome = life.advance(random.below(most)).outcome
        if case .ended(let why) = outcome { throw ended(why) }
        return outcome == .stepped
    }

    private static let step = 24
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
            if acts.contains(done) { try guest.goOn() }
        }
        return false
    }

    /// A copy of the process dies here. Once all that follows is judged, everything is as before. False if the process has
    /// come to its end.
    private func kill(_ leader: Tracee) throws -> Bool {
        guard let victim = try rig.herd.copy(of: leader) else { return false }
        region.save(rig.scratch)
        let kept = (guest, random)
        tally.kills[rig.world.window] += 1
        rig.herd.kill(victim)
        random = SeededRandom(seed: seed << 32 ^ UInt64(done))
        guest.random = SeededRandom(seed: random.next())
        try goOn(after: victim)
        (guest, random) = kept
        region.restore(rig.scratch)
        return true
    }

    private func goOn(after victim: Tracee) throws {
        if random.chance(perThousand: 500) { try guest.goOn() }
        var life = try succeed(victim)
        if random.chance(perThousand: 5) { life = try interrupt(life) }
        try serve(life)
        for _ in 0..<random.below(3) {
            if random.chance(perThousand: 250) { life = try succeed(life) }
            guest.ask(1 + random.below(guest.appetite))
            try serve(life)
        }
        while guest.settle() { try serve(life) }
        rig.herd.kill(life)
        try guest.finish()
        tally.runs += 1
        tally.answers += guest.answered
    }

    /// Lets a process run until it is idle.
    private func serve(_ life: Tracee) throws {
        if case .ended(let why) = life.resume() { throw ended(why) }
        try guest.takeAnswers()
    }

    private func ended(_ why: String) -> Failure {
        let text = region.text
        return Failure(text.isEmpty ? "the backend ended: \(why)" : text)
    }

    var description: String {
        let places = isExhaustive ? "at every one" : "every \(stride) or more"
        return "\(kind), \(done) instructions, \(places)"
    }

    /// The pass so far, when it failed.
    var soFar: Tally { tally }
}
