import BlockBackend
import Descriptors
import Loopback
import ScenarioWorld
import Testing
import XenWire

@Suite struct ServiceTests {
    static let scenarios: [Scenario] = [
        Scenario(name: "reads and writes"),
        Scenario(name: "x86_32 layout", abi: .x86_32),
        // Both ends sleep between any two requests, so every wake-up counts.
        Scenario(name: "one at a time", mix: .init(indirectWrite: 3, flush: 3), depth: 1),
        Scenario(name: "two at a time", mix: .init(write: 5, barrier: 2), queues: 2, requests: 40, depth: 2),
        Scenario(name: "large ring", ringPages: 4, requests: 150, dataPages: 400),
        Scenario(
            name: "indirect requests", mix: .init(read: 3, write: 3, indirectRead: 6, indirectWrite: 6), requests: 40),
        Scenario(
            name: "indirect requests, x86_32", mix: .init(indirectRead: 6, indirectWrite: 6), abi: .x86_32,
            requests: 40),
        Scenario(name: "three queues", mix: .init(flush: 1), queues: 3, requests: 40),
        Scenario(name: "flushes", mix: .init(flush: 4, flushWithData: 2)),
        Scenario(
            name: "read-modify-write", mix: .init(indirectRead: 2, indirectWrite: 2, flush: 1), requests: 50,
            sectors: 128, volumeBlock: 4096),
        Scenario(
            name: "read-modify-write on two queues", mix: .init(indirectRead: 2, indirectWrite: 2, flush: 1),
            queues: 2, requests: 40, sectors: 64, volumeBlock: 4096, short: 100),
        Scenario(
            name: "discards", mix: .init(indirectWrite: 2, discard: 8), queues: 2, requests: 50,
            discardCapacity: 2, discardRules: DiscardRules(granularity: 8, alignment: 3)),
        Scenario(
            name: "discards beside read-modify-write", mix: .init(discard: 6), queues: 2, requests: 50,
            volumeBlock: 4096, discardRules: DiscardRules(granularity: 8, alignment: 0)),
        Scenario(
            name: "barriers", mix: .init(read: 5, write: 10, indirectWrite: 3, barrier: 3), queues: 3, requests: 40),
        Scenario(
            name: "barriers, little memory", mix: .init(read: 2, write: 3, indirectWrite: 10, barrier: 3), queues: 2,
            requests: 40, indirectSegments: 100, sectors: 900, bufferCeiling: 256 << 10, dataPages: 700),
        Scenario(
            name: "barriers, few claims", mix: .init(write: 10, flush: 1, barrier: 3, discard: 2), queues: 2,
            requests: 40, short: 100),
        Scenario(
            name: "barriers, flushes with data", mix: .init(write: 6, flushWithData: 6, barrier: 3), queues: 2,
            requests: 40),
        Scenario(
            name: "read-modify-write, flushes with data", mix: .init(write: 6, flushWithData: 6), queues: 2,
            requests: 40, sectors: 64, volumeBlock: 4096),
        Scenario(
            name: "4,096-byte sectors", mix: .init(indirectRead: 3, indirectWrite: 3, flush: 1), volumeBlock: 4096,
            sectorSize: 4096),
        Scenario(
            name: "small buffer memory", mix: .init(read: 4, write: 4, indirectRead: 10, indirectWrite: 10),
            ringPages: 2, requests: 60, indirectSegments: 100, sectors: 900, bufferCeiling: 256 << 10,
            dataPages: 700),
        Scenario(
            name: "busy engine", mix: .init(indirectRead: 2, indirectWrite: 2, flush: 1), engineCapacity: 3,
            registersSlabs: false),
        Scenario(name: "short operations", mix: .init(indirectRead: 3, indirectWrite: 3), short: 400),
        Scenario(name: "transient errors", mix: .init(indirectRead: 3, indirectWrite: 3, flush: 2), transient: 200),
        Scenario(name: "media errors", mix: .init(indirectRead: 3, indirectWrite: 3, flush: 2), failed: 100),
        Scenario(
            name: "full volume", mix: .init(read: 5, write: 10, indirectWrite: 3, flush: 1), queues: 2, requests: 50,
            timesFull: 3),
    ]

    /// Every request is answered exactly once, every sector is what it must be, nobody sleeps while there is work.
    @Test(arguments: scenarios) func everythingIsAnswered(scenario: Scenario) throws {
        for seed in Seeds.all {
            let world = try World(scenario, seed: seed)
            _ = world.run()
            world.checkAllAnswered()
            if scenario.mix.barrier > 0 { world.checkBarriers() }
            if let complaint = world.complaint {
                Issue.record("\(scenario.name), seed \(seed): \(complaint)")
                return
            }
        }
    }

    @Test(arguments: scenarios) func theSameSeedGivesTheSameHistory(scenario: Scenario) throws {
        for seed in UInt64(1)...3 {
            let histories = try (0..<2).map { _ in
                let world = try World(scenario, seed: seed)
                _ = world.run()
                return [world.simulation.history, UInt64(world.simulation.steps)]
            }
            #expect(histories[0] == histories[1], "seed \(seed)")
        }
    }
}
