import Loopback

/// A world and the two processes of which all others in it are copies.
final class Rig {
    let rings: Rings
    let world: any World
    let herd = Herd()
    /// Has made the queues on rings that nobody has served; the other one has yet to take over what was served.
    let first: Tracee
    let later: Tracee
    /// The region as `first` leaves it.
    let genesis: Region.Image
    let scratch: Region.Image

    init(_ rings: Rings) throws {
        let world = try rings.world()
        self.rings = rings
        self.world = world
        genesis = Region.Image(of: world.region)
        scratch = Region.Image(of: world.region)
        world.region.save(genesis)
        try Self.warmUp(world)
        world.region.restore(genesis)
        first = try Self.process(world, recovers: false)
        world.region.save(genesis)
        later = try Self.process(world, recovers: true)
    }

    /// A bit of everything, in the process from which all others are made.
    private static func warmUp(_ world: any World) throws {
        var random = SeededRandom(seed: 1)
        var guest = world.guest(&random)
        for _ in 0..<8 {
            guest.ask(32)
            try world.life(recovers: true).warmUp()
            try guest.takeAnswers()
            try guest.noteDeath()
        }
    }

    private static func process(_ world: any World, recovers: Bool) throws -> Tracee {
        try Tracee {
            do {
                try world.life(recovers: recovers).run()
            } catch {
                fatalError("\(error)")
            }
        }
    }
}
