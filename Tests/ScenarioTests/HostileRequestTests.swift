import Loopback
import ScenarioWorld
import SharedRing
import Testing
import Uring
import XenWire

@Suite struct HostileRequestTests {
    /// Gives a guest a page and a table of segments, and sends it every attack in a random order, a few at a time.
    static func send(_ attacks: (AttackList) -> [Attack], by attacker: Attacker) {
        let page = attacker.pages.take(readOnly: false)
        let table = attacker.pages.take(readOnly: true)
        for index in 0..<512 {
            unsafe RawRequest.encode(
                RawRequest.Segment(reference: attacker.pages.reference(page), first: 0, last: 7),
                into: attacker.pages.memory(table) + 8 * index)
        }
        let list = AttackList(
            page: attacker.pages.reference(page), table: attacker.pages.reference(table),
            capacity: UInt64(attacker.disk.sectors), indirectLimit: UInt16(attacker.scenario.indirectSegments))
        var pending = attacks(list).shuffled(using: &attacker.world.simulation.random)
        attacker.world.simulation.add(
            ready: { !pending.isEmpty && attacker.ring.free > 1 },
            step: { simulation in
                let attack = pending.removeLast()
                attacker.put(attack.request, attack.expectation)
                // Honest requests on the same ring are not to suffer.
                guard simulation.random.chance(perThousand: 300), attacker.ring.free > 0 else { return }
                let honest = list.honest(isIndirect: simulation.random.chance(perThousand: 500))
                attacker.put(honest, .init(operation: 0, statuses: [0]))
            })
    }

    @Test(arguments: BlockABI.allCases) func everyFieldOutOfRangeIsNamed(abi: BlockABI) throws {
        try attack(
            Scenario(name: "fields", abi: abi, ringPages: 2), seeds: Seeds.some(20),
            { Self.send(\.everything, by: $0) },
            check: { $0.checkCounted() })
    }

    /// The same with hardly any buffer memory and a busy engine, where requests wait at every step.
    @Test func everyFieldOutOfRangeIsNamedUnderPressure() throws {
        try attack(
            Scenario(name: "pressure", ringPages: 4, bufferCeiling: 0, engineCapacity: 1), seeds: Seeds.some(20),
            { Self.send(\.everything, by: $0) },
            check: { $0.checkCounted() })
    }

    @Test func misalignmentIsNamed() throws {
        try attack(
            Scenario(name: "alignment", volumeBlock: 4096, sectorSize: 4096), seeds: Seeds.some(5),
            { attacker in
                Self.send(
                    { list in
                        [(UInt64(1), UInt8(0), UInt8(7)), (0, 1, 7), (0, 0, 6), (4, 0, 7), (9, 0, 0)].flatMap {
                            place in
                            ([0, 1] as [UInt8]).map { operation in
                                Attack(
                                    request: RawRequest(
                                        operation: operation, second: 1, identifier: 0, sector: place.0,
                                        segments: [.init(reference: list.page, first: place.1, last: place.2)]),
                                    violation: .misaligned)
                            }
                        }
                    }, by: attacker)
            }, check: { $0.checkCounted() })
    }

    @Test func discardsBeyondTheDeviceAreNamed() throws {
        try attack(
            Scenario(name: "discards", mix: .init(discard: 1)), seeds: Seeds.some(10),
            { attacker in
                Self.send(
                    { list in
                        let far: [(UInt64, UInt64)] = [
                            (list.capacity, 1), (0, list.capacity + 1), (list.capacity - 1, 2), (0, .max), (1, .max),
                            (.max, 1), (.max, .max), (1 << 63, 1 << 63), (8, .max - 7),
                        ]
                        return far.map { sector, count in
                            Attack(
                                request: RawRequest(
                                    operation: 5, identifier: 0, sector: sector, discardSectors: count),
                                violation: .beyondEnd)
                        }
                    }, by: attacker)
            },
            check: { attacker in
                attacker.checkCounted()
                if attacker.disk.discards.malformed > 0 { attacker.world.complain("a malformed discard") }
            })
    }

    @Test func readOnlyDevicesStayAsTheyAre() throws {
        let limits = RequestLimits(
            indirectSegments: 48, isReadOnly: true, offersBarrier: true, offersFlush: true, offersDiscard: true)
        try attack(
            Scenario(name: "read-only"), limits: limits, seeds: Seeds.some(5),
            { attacker in
                Self.send(
                    { list in
                        var attacks = ([1, 2, 3] as [UInt8]).map { operation in
                            Attack(
                                request: RawRequest(
                                    operation: operation, second: 1, identifier: 0,
                                    segments: [.init(reference: list.page, first: 0, last: 7)]),
                                violation: .readOnly)
                        }
                        attacks.append(
                            Attack(
                                request: RawRequest(operation: 5, identifier: 0, discardSectors: 8),
                                violation: .readOnly))
                        attacks.append(
                            Attack(
                                request: RawRequest(
                                    operation: 6, second: 1, identifier: 0, indirectCount: 1,
                                    indirectPages: [list.table]),
                                violation: .readOnly, echo: 1))
                        return attacks
                    }, by: attacker)
            },
            check: { attacker in
                attacker.checkCounted()
                let writes = attacker.disk.volume.effects.filter { $0.kind == .write }
                if !writes.isEmpty { attacker.world.complain("a read-only volume was written") }
            })
    }
}
