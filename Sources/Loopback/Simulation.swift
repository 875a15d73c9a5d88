/// A world of actors that take one step at a time, in an order that a seed decides: the same seed, the same history.
///
/// An actor is whatever can be ready for a step: a frontend with something to send, a queue that is awake, a volume
/// with operations under way, an event that has not arrived. When nobody is ready the world is quiescent, and whoever
/// is still waiting for something has missed its wake-up.
public final class Simulation {
    /// The source of all choices.
    public var random: SeededRandom
    /// The world's clock.
    public let clock = ModelClock()
    /// Steps taken: the world's logical time.
    public private(set) var steps = 0
    /// A digest of who took which step and of everything that was noted.
    public private(set) var history: UInt64 = 0xcbf2_9ce4_8422_2325

    private struct Actor {
        let isReady: () -> Bool
        let step: (Simulation) -> Void
    }
    private var actors: [Actor] = []

    /// A world without actors.
    public init(seed: UInt64) { random = SeededRandom(seed: seed) }

    /// Adds an actor. The order of adding is part of what a seed means.
    public func add(ready: @escaping () -> Bool, step: @escaping (Simulation) -> Void) {
        actors.append(Actor(isReady: ready, step: step))
    }

    /// Forgets the actors, and with them what they hold.
    public func removeActors() { actors = [] }

    /// Lets actors step until none is ready; false if that takes more than `limit` steps.
    public func run(limit: Int) -> Bool {
        var ready: [Int] = []
        for _ in 0..<limit {
            ready.removeAll(keepingCapacity: true)
            for index in actors.indices where actors[index].isReady() { ready.append(index) }
            guard !ready.isEmpty else { return true }
            step(ready[random.below(ready.count)])
        }
        return false
    }

    private func step(_ index: Int) {
        steps += 1
        clock.advance(by: 100 + UInt64(random.below(10_000)))
        note(UInt64(index))
        actors[index].step(self)
    }

    /// Makes a value part of the history (FNV-1a, a word at a time).
    public func note(_ value: UInt64) { history = (history ^ value) &* 0x100_0000_01b3 }
}
