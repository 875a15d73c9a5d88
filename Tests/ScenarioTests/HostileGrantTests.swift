import BlockBackend
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

@Suite struct HostileGrantTests {
    /// References that give nothing, or not what the request needs.
    enum BadGrant: CaseIterable, Sendable {
        case beyondTable, reserved, empty, otherDomain, beyondMemory, readOnlyForRead

        func reference(_ attacker: Attacker) -> GrantReference {
            let page = attacker.pages.take(readOnly: self == .readOnlyForRead)
            let reference = attacker.pages.reference(page)
            switch self {
            case .beyondTable: return GrantReference(UInt32.max)
            case .reserved: return GrantReference(0)
            case .empty: _ = attacker.pages.revoke(page)
            case .otherDomain: attacker.pages.grant(page, readOnly: false, to: World.guestID)
            case .beyondMemory:
                attacker.domain.grants.grant(
                    reference.rawValue, frame: .max, to: DomainID(0), readOnly: false)
            case .readOnlyForRead: break
            }
            return reference
        }
    }

    @Test(arguments: BadGrant.allCases) func dataPagesThatAreNotGrantedAreRefused(grant: BadGrant) throws {
        try attack(
            Scenario(name: "\(grant)"), seeds: Seeds.some(10),
            { attacker in
                let bad = grant.reference(attacker)
                let good = attacker.pages.reference(attacker.pages.take(readOnly: false))
                for operation: UInt8 in [0, 1] where operation == 0 || grant != .readOnlyForRead {
                    // One bad segment fails its request; the next request has only good ones.
                    attacker.put(
                        RawRequest(
                            operation: operation, second: 3, identifier: 0,
                            segments: [good, bad, good].map { .init(reference: $0, first: 0, last: 7) }),
                        .init(operation: operation, statuses: [-1], violation: .grantRefused))
                    attacker.put(
                        RawRequest(
                            operation: operation, second: 1, identifier: 0,
                            segments: [.init(reference: good, first: 0, last: 7)]),
                        .init(operation: operation, statuses: [0]))
                }
            }, check: { $0.checkCounted() })
    }

    @Test(arguments: BadGrant.allCases) func indirectPagesThatAreNotGrantedAreRefused(grant: BadGrant) throws {
        // A table is only read.
        guard grant != .readOnlyForRead else { return }
        try attack(
            Scenario(name: "\(grant)"), seeds: Seeds.some(10),
            { attacker in
                let bad = grant.reference(attacker)
                for inner: UInt8 in [0, 1] {
                    attacker.put(
                        RawRequest(
                            operation: 6, second: inner, identifier: 0, indirectCount: 3, indirectPages: [bad]),
                        .init(operation: inner, statuses: [-1], violation: .grantRefused))
                }
            }, check: { $0.checkCounted() })
    }

    /// Grants that go away at any moment: each request is either served or refused, and it is counted which.
    @Test func grantsRevokedInMidFlightFailTheirOwnRequests() throws {
        var refused: UInt64 = 0
        var served: UInt64 = 0
        try attack(
            Scenario(name: "revoked"), honestRequests: 20,
            { attacker in
                let pages = (0..<20).map { _ in attacker.pages.take(readOnly: false) }
                for (index, page) in pages.enumerated() {
                    let operation = UInt8(index % 2)
                    attacker.put(
                        RawRequest(
                            operation: operation, second: 1, identifier: 0, sector: UInt64(index * 8),
                            segments: [.init(reference: attacker.pages.reference(page), first: 0, last: 7)]),
                        .init(operation: operation, statuses: [0, -1], violation: .grantRefused))
                }
                var toRevoke = pages
                attacker.world.simulation.add(
                    ready: { !toRevoke.isEmpty },
                    step: { simulation in
                        guard simulation.random.chance(perThousand: 100) else { return }
                        _ = attacker.pages.revoke(toRevoke.remove(at: simulation.random.below(toRevoke.count)))
                    })
            },
            check: { attacker in
                attacker.checkCounted()
                let count = attacker.violations[.grantRefused]
                refused += count
                served += UInt64(attacker.answered) - count
            })
        #expect(refused > 0 && served > 0, "the scheduler found only one of the two outcomes")
    }

    /// A domain that is destroyed in mid-flight: what was under way ends, and nobody else is affected.
    @Test func aDestroyedDomainHurtsNobodyElse() throws {
        try attack(
            Scenario(name: "destroyed"), honestRequests: 20,
            { attacker in
                attacker.ignoresAnswers = true
                let page = attacker.pages.reference(attacker.pages.take(readOnly: false))
                var puts = 25
                attacker.world.simulation.add(
                    ready: { puts > 0 },
                    step: { simulation in
                        puts -= 1
                        attacker.put(
                            RawRequest(
                                operation: UInt8(puts % 2), second: 1, identifier: 0,
                                segments: [.init(reference: page, first: 0, last: 7)]),
                            .init(operation: 0, statuses: [0, -1]))
                        if simulation.random.chance(perThousand: 60) {
                            attacker.world.platform.destroyDomain(Attacker.id)
                        }
                    })
            },
            check: { attacker in
                attacker.checkHost()
                #expect(attacker.backend.queue.condition == .running)
            })
    }

    /// A guest that rewrites its segment tables all the time gets whatever the one private copy said.
    @Test func indirectPagesMayChangeWhileTheyAreRead() throws {
        try attack(
            Scenario(name: "changing tables", bufferCeiling: 0), honestRequests: 20,
            { attacker in
                let data = attacker.pages.reference(attacker.pages.take(readOnly: false))
                let table = attacker.pages.take(readOnly: true)
                var puts = 20
                attacker.world.simulation.add(
                    ready: { puts > 0 },
                    step: { simulation in
                        puts -= 1
                        let inner = UInt8(simulation.random.below(2))
                        attacker.put(
                            RawRequest(
                                operation: 6, second: inner, identifier: 0,
                                indirectCount: UInt16(1 + simulation.random.below(48)),
                                indirectPages: [attacker.pages.reference(table)]),
                            .init(operation: inner, statuses: [0, -1]))
                    })
                attacker.world.simulation.add(
                    ready: { puts > 0 || !attacker.open.isEmpty },
                    step: { simulation in
                        Self.scribble(on: table, data, attacker, &simulation.random)
                    })
            },
            check: { attacker in
                let world = attacker.world
                if !attacker.open.isEmpty { world.complain("attacker: \(attacker.open.count) unanswered") }
                attacker.checkHost()
            })
    }

    private static func scribble(
        on table: Int, _ data: GrantReference, _ attacker: Attacker, _ random: inout SeededRandom
    ) {
        for index in 0..<48 where random.chance(perThousand: 500) {
            let isWild = random.chance(perThousand: 50)
            let first = UInt8(random.below(isWild ? 256 : 8))
            let last = isWild ? UInt8(random.below(256)) : first + UInt8(random.below(8 - Int(first)))
            let reference = isWild ? GrantReference(UInt32(truncatingIfNeeded: random.next())) : data
            unsafe RawRequest.encode(
                RawRequest.Segment(reference: reference, first: first, last: last),
                into: attacker.pages.memory(table) + 8 * index)
        }
    }
}
