import BlockBackend
import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

@Suite struct FaultTests {
    /// A failed flush is never answered, and stops the queue.
    @Test func aFailedFlushStopsTheQueueUnanswered() throws {
        let scenario = Scenario(
            name: "failing flush", mix: .init(flush: 5, flushWithData: 2), synchronizeError: 5)
        var failed = 0
        for seed in Seeds.all {
            let world = try World(scenario, seed: seed)
            let complaint = world.run()
            #expect(complaint == nil, "seed \(seed)")
            #expect(world.frontends[0].errors == 0, "seed \(seed)")
            guard case .failed(let fault) = world.backends[0].queue.condition else { continue }
            failed += 1
            #expect(fault.code == 5)
            let open = world.frontends[0].open.values
            #expect(open.contains { $0.kind == .flush || $0.kind == .flushWithData }, "seed \(seed)")
        }
        #expect(failed > 0, "no seed reached a failing flush")
    }

    /// Stopping in mid-flight: what was taken is answered, what was not is not, and nothing stays mapped.
    @Test func stoppingAnswersExactlyWhatWasTaken() throws {
        let scenario = Scenario(
            name: "stop", mix: .init(indirectRead: 3, indirectWrite: 3, flush: 1), stops: true)
        for seed in Seeds.all {
            let world = try World(scenario, seed: seed)
            let complaint = world.run()
            #expect(complaint == nil, "seed \(seed)")
            for (frontend, backend) in zip(world.frontends, world.backends) {
                #expect(backend.isOver, "seed \(seed)")
                #expect(backend.engine.underWay == 0, "seed \(seed)")
                // Requests are taken in ring order, so the answered ones are the first.
                let answered = frontend.answeredPositions.map { $0 &- scenario.firstIndex }
                #expect(answered.sorted() == Array(0..<UInt32(answered.count)), "seed \(seed)")
            }
        }
    }

    /// The same with claims that wait for each other and discards on their lane: nobody waits for good.
    @Test func stoppingEndsWithClaimsAndDiscards() throws {
        let scenario = Scenario(
            name: "stop, claims", mix: .init(indirectWrite: 3, barrier: 3, discard: 3), queues: 3, volumeBlock: 4096,
            stops: true, discardRules: DiscardRules(granularity: 8, alignment: 0))
        for seed in Seeds.all {
            let world = try World(scenario, seed: seed)
            let complaint = world.run()
            #expect(complaint == nil, "seed \(seed)")
            for backend in world.backends {
                #expect(backend.isOver && backend.engine.underWay == 0, "seed \(seed)")
            }
        }
    }

    @Test func aWorldThatEndsUnmapsEverything() throws {
        let scenario = Scenario(name: "end", requests: 10)
        var world: World? = try World(scenario, seed: 1)
        let platform = try #require(world?.platform)
        let complaint = world?.run()
        #expect(complaint == nil)
        #expect(platform.mappedPages(of: World.guestID) == scenario.ringPages)
        world = nil
        #expect(platform.mappedPages(of: World.guestID) == 0)
    }

    /// A volume that stays full holds the writes for good: reads that were taken go on, no error reaches the guest.
    @Test func aVolumeThatStaysFullHoldsItsWrites() throws {
        let scenario = Scenario(name: "full for good")
        for seed in Seeds.all.prefix(20) {
            let world = try World(scenario, seed: seed)
            world.disk.volume.isFull = true
            let complaint = world.run()
            #expect(complaint == nil, "seed \(seed)")
            #expect(world.backends[0].isPaused, "seed \(seed)")
            #expect(world.frontends[0].errors == 0)
            #expect(world.frontends[0].open.values.contains { $0.kind == .write })
            // Then there is room: everything is answered.
            world.disk.volume.isFull = false
            let second = world.run()
            #expect(second == nil, "seed \(seed)")
            #expect(world.frontends[0].isDone, "seed \(seed)")
        }
    }
}
