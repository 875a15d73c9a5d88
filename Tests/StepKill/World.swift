import ArgumentParser
import CStepKill
import Loopback

/// What is killed.
enum Rings: String, CaseIterable, ExpressibleByArgument {
    /// A disk's only queue.
    case block
    /// Two queues of one disk, which share its claims.
    case twoQueues = "two-queues"
    /// A queue pair of a network interface, most of whose packets go from the guest to the host.
    case transmit
    /// The same, the other way.
    case receive

    func world() throws -> any World {
        switch self {
        case .block: try BlockWorld(queues: 1)
        case .twoQueues: try BlockWorld(queues: 2)
        case .transmit: try NetWorld(.transmit)
        case .receive: try NetWorld(.receive)
        }
    }
}

/// Rings, and all that outlives the processes which serve them, as a guest and a toolstack have made it.
protocol World: AnyObject {
    var region: Region { get }
    /// Where a kill may hit, and in which of these windows the process stands.
    var windows: [WindowKind] { get }
    var window: Int { get }
    /// So many times closer than with others one look at the window follows the other.
    var fineness: Int { get }

    func life(recovers: Bool) throws -> any Life
    func guest(_ random: inout SeededRandom) -> any Guest
    /// Changes what a killed process has left, before the next one starts.
    func tamper(_ mutant: Mutant)
}

/// A part of what a process does.
struct WindowKind {
    let name: String
    /// So many looks to a kill.
    var looks = 1
    /// What is half done here is what a recovery is there for.
    var isTelling = false
}

/// A frontend that takes nothing on trust. A value: what it knows at one moment can be kept, like the region's image.
protocol Guest {
    var random: SeededRandom { get set }
    /// Answers that it has taken.
    var answered: Int { get }
    /// Most requests that it has open.
    var appetite: Int { get }

    /// Makes so many requests, as far as its appetite goes.
    mutating func ask(_ count: Int)
    /// Takes answers, if there was an event.
    mutating func takeAnswers() throws
    /// The process has died, and what it left is as it was.
    mutating func noteDeath() throws
    /// Gives the backend what it waits for; false if it waits for nothing.
    mutating func settle() -> Bool
    /// All is answered, and makes sense.
    mutating func finish() throws
}

extension Guest {
    /// Answers are taken, and some new requests made.
    mutating func goOn() throws {
        try takeAnswers()
        ask(1 + random.below(appetite))
    }
    mutating func noteDeath() throws {}
    mutating func settle() -> Bool { false }
}

/// What a backend process does: serves until there is nothing to do, stops, and goes on when it is let.
protocol Life {
    associatedtype Server
    var region: Region { get }
    /// An earlier process has served the rings.
    var recovers: Bool { get }

    /// Makes the queues.
    func start() -> Server
    /// From now on the process' own random numbers are these.
    func shuffle(_ random: SeededRandom)
    /// Returns when there is nothing to do.
    func serve(_ server: Server)
}

extension Life {
    /// Stops where its instructions begin to be counted: a first process behind `start`, a later one before it. Then it
    /// stops whenever it is idle.
    func run() -> Never {
        if recovers { step_stop() }
        let server = start()
        region.hasRecovered = true
        if !recovers || region.stop == .recovered { step_stop() }
        shuffle(SeededRandom(seed: region.order))
        while true {
            serve(server)
            step_stop()
        }
    }

    /// Does all of it once, in the process from which the others are made: what a runtime does the first time only is not
    /// what is to be killed.
    func warmUp() {
        let server = start()
        serve(server)
    }

    func end(_ text: String) -> Never {
        region.text = text
        step_exit(1)
    }
}
