import BlockBackend
import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import Synchronization
import Testing
import XenWire

/// What a scheduler cannot show: a guest on another core that changes memory while it is being read. Nothing about the
/// outcome is the same twice, so only what must hold in every run is checked.
@Suite struct RaceTests {
    /// Two forms of a segment table take turns, one sound and one that breaks every rule, as fast as a core can write
    /// them. Whatever mixture the backend copies, it must judge and use the same one.
    @Test func aTableThatFlipsWhileItIsCopiedIsJudgedOnce() throws {
        let scenario = Scenario(name: "flipping table", requests: 0)
        let world = try World(scenario, seed: 1)
        let attacker = try Attacker(world, scenario)
        let data = attacker.pages.reference(attacker.pages.take(readOnly: false))
        let table = attacker.pages.take(readOnly: true)
        let flipper = try Flipper(attacker.domain, frame: attacker.pages.frame(table), data)
        for round in 0..<400 {
            attacker.put(
                RawRequest(
                    operation: 6, second: UInt8(round % 2), identifier: 0, indirectCount: 48,
                    indirectPages: [attacker.pages.reference(table)]),
                .init(operation: UInt8(round % 2), statuses: [0, -1]))
            _ = world.run()
        }
        flipper.stop()
        #expect(world.complaint == nil)
        #expect(attacker.open.isEmpty && attacker.answered == 400)
        attacker.checkHost()
        #expect(world.complaint == nil)
        world.simulation.removeActors()
    }
}

/// A guest's second processor, which rewrites 48 segments all the time.
private final class Flipper: Sendable {
    private let stopping = Stop()
    private let thread: JoinableThread

    private final class Stop: Sendable {
        let isSet = Atomic(false)
    }

    init(_ domain: GuestDomain, frame: UInt32, _ data: GrantReference) throws(Fault) {
        let stopping = self.stopping
        thread = try JoinableThread(name: "flipper") {
            // The closure keeps the domain, whose memory this is.
            guard let table = unsafe domain.memory(ofFrame: frame) else { return }
            let sound = RawRequest.Segment(reference: data, first: 0, last: 7)
            let broken = RawRequest.Segment(reference: GrantReference(.max), first: 7, last: 255)
            while !stopping.isSet.load(ordering: .relaxed) {
                for segment in [sound, broken, sound] {
                    for index in 0..<48 { unsafe RawRequest.encode(segment, into: table + 8 * index) }
                }
            }
        }
    }

    /// Ends the thread.
    func stop() {
        stopping.isSet.store(true, ordering: .relaxed)
        thread.join()
    }
}
