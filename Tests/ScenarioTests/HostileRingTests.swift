import BlockBackend
import CXen
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

@Suite struct HostileRingTests {
    /// Producer indices that cannot be: further ahead than the ring has slots, or back behind what was taken.
    @Test(arguments: [1, 2, 33, 1 << 16, 1 << 31, 0xffff_ff00, 0xffff_ffff] as [UInt32], BlockABI.allCases)
    func wildProducerIndicesStopTheRing(beyond: UInt32, abi: BlockABI) throws {
        try attack(
            Scenario(name: "req_prod + \(beyond)", abi: abi), seeds: Seeds.some(10),
            { attacker in
                let page = attacker.pages.reference(attacker.pages.take(readOnly: false))
                let read = RawRequest(
                    operation: 0, second: 1, identifier: 0, segments: [.init(reference: page, first: 0, last: 7)])
                var puts = 0
                attacker.world.simulation.add(
                    ready: { puts < 10 },
                    step: { _ in
                        attacker.put(read, .init(operation: 0, statuses: [0]))
                        puts += 1
                    })
                // An index that goes back is wild once everything was taken; one that is too far ahead always is.
                let movesBack = beyond > 1 << 31
                var isDone = false
                attacker.world.simulation.add(
                    ready: { !isDone && (movesBack ? attacker.answered == 10 : puts > 0) },
                    step: { simulation in
                        guard movesBack || simulation.random.chance(perThousand: 100) else { return }
                        isDone = true
                        puts = 10
                        let claimed = attacker.ring.produced &+ (movesBack ? 0 : attacker.ring.size) &+ beyond
                        attacker.ring.scribble(claimed, at: Int(XEN_RING_REQ_PROD))
                        attacker.ring.kick()
                    })
            },
            check: { attacker in
                let backend = attacker.backend
                #expect(backend.queue.condition == .violated(.requestOverrun))
                #expect(attacker.violations[.requestOverrun] == 1)
                attacker.checkHost()
            })
    }

    /// A stopped ring stays stopped, whatever the guest writes then.
    @Test func aStoppedRingStaysStopped() throws {
        try attack(
            seeds: Seeds.some(5),
            { attacker in
                attacker.ring.scribble(attacker.ring.produced &+ 1000, at: Int(XEN_RING_REQ_PROD))
                attacker.ring.kick()
                var kicks = 20
                attacker.world.simulation.add(
                    ready: { kicks > 0 && attacker.backend.queue.condition != .running },
                    step: { _ in
                        kicks -= 1
                        attacker.ring.scribble(attacker.ring.produced &+ UInt32(kicks), at: Int(XEN_RING_REQ_PROD))
                        attacker.ring.kick()
                    })
            },
            check: { attacker in
                #expect(attacker.backend.queue.condition == .violated(.requestOverrun))
                #expect(attacker.violations[.requestOverrun] == 1)
                #expect(attacker.answered == 0)
                #expect(attacker.disk.volume.effects.isEmpty)
            })
    }

    /// Random words all over the ring pages, at random moments, and events for nothing.
    @Test(arguments: BlockABI.allCases) func aStormOfScribblesHurtsNobodyElse(abi: BlockABI) throws {
        try attack(
            Scenario(name: "storm", abi: abi, ringPages: 2), honestRequests: 20,
            { attacker in
                attacker.ignoresAnswers = true
                let page = attacker.pages.reference(attacker.pages.take(readOnly: false))
                var scribbles = 300
                attacker.world.simulation.add(
                    ready: { scribbles > 0 },
                    step: { simulation in
                        scribbles -= 1
                        Self.scribble(attacker, page, &simulation.random)
                    })
            },
            check: { attacker in
                let condition = attacker.backend.queue.condition
                #expect(condition == .running || condition == .violated(.requestOverrun))
                attacker.checkHost()
            })
    }

    private static func scribble(_ attacker: Attacker, _ page: GrantReference, _ random: inout SeededRandom) {
        let words = attacker.scenario.ringPages * 1024
        switch random.below(8) {
        case 0: attacker.ring.kick()
        case 1:
            // A few more requests than before, made of whatever lies in the slots.
            let claimed = attacker.ring.produced &+ UInt32(random.below(Int(attacker.ring.size) + 2))
            attacker.ring.scribble(claimed, at: Int(XEN_RING_REQ_PROD))
            attacker.ring.kick()
        case 2: attacker.ring.scribble(UInt32(truncatingIfNeeded: random.next()), at: random.below(16) * 4)
        case 3: attacker.ring.scribble(page.rawValue, at: 64 + random.below(words - 16) * 4)
        default:
            // Small numbers look most like requests.
            let value = UInt32(truncatingIfNeeded: random.next()) & 0x0107_0706
            attacker.ring.scribble(value, at: 64 + random.below(words - 16) * 4)
        }
    }
}
