import CXen
import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import Testing
import XenWire

@testable import BlockBackend

/// A hostile guest with a device of its own, in the same world as an honest one.
final class Attacker {
    /// What must become of a request.
    struct Expectation {
        var operation: UInt8
        var statuses: Set<Int16>
        /// What is counted if the status is not 0.
        var violation: Violation?
    }

    static let id = DomainID(66)

    let world: World
    let scenario: Scenario
    let domain: GuestDomain
    let ring: GuestRing
    let pages: Pages
    let disk: Disk
    let backend: Backend
    private(set) var open: [UInt64: Expectation] = [:]
    /// Answers other than okay, by the violation that they stand for.
    private(set) var expected: [Violation: UInt64] = [:]
    private(set) var answered = 0
    /// Scribbles on its own ring and so cannot tell what the answers mean.
    var ignoresAnswers = false
    private var nextIdentifier: UInt64 = 0xfeed_0000

    init(_ world: World, _ scenario: Scenario, limits: RequestLimits? = nil) throws(Fault) {
        self.world = world
        self.scenario = scenario
        domain = try world.platform.createDomain(Self.id, pages: 200, references: 200)
        ring = try GuestRing(
            domain, abi: scenario.abi, pages: scenario.ringPages, startingAt: scenario.firstIndex)
        pages = try Pages(domain, count: 120)
        disk = try Disk(scenario)
        backend = try Backend(
            scenario, ring, of: Self.id, disk, world.platform, world.simulation, limits: limits)
        addActors()
    }

    private func addActors() {
        let backend = self.backend
        world.simulation.add(ready: { backend.isReady }, step: { _ in backend.step() })
        world.simulation.add(ready: { backend.engine.isBusy }, step: { backend.engine.step(&$0.random) })
        world.simulation.add(ready: { [unowned self] in ring.hasEvent }, step: { [unowned self] _ in serve() })
    }

    var violations: QueueCounters { QueueCounters(backend.queue.cells) }

    // MARK: Requests

    /// Puts a request and shows it; its identifier becomes one that nothing else has.
    func put(_ request: RawRequest, _ expectation: Expectation) {
        var request = request
        request.identifier = nextIdentifier
        nextIdentifier += 1
        open[request.identifier] = expectation
        ring.put(request)
        ring.publish()
    }

    private func serve() {
        let makesSense = ring.serve { response in if !ignoresAnswers { take(response) } }
        if !makesSense && !ignoresAnswers { world.complain("the attacker's backend answers out of range") }
    }

    private func take(_ response: RawResponse) {
        guard let expectation = open.removeValue(forKey: response.identifier) else {
            return world.complain("attacker: response for unknown id \(response.identifier)")
        }
        answered += 1
        if response.operation != expectation.operation || !expectation.statuses.contains(response.status) {
            world.complain("attacker: \(response), expected \(expectation)")
        }
        if response.status != 0, let violation = expectation.violation { expected[violation, default: 0] += 1 }
    }

    // MARK: Checks

    /// Every request was answered, every violation counted under its name and nothing else.
    func checkCounted() {
        if !open.isEmpty { world.complain("attacker: \(open.count) unanswered") }
        let counters = violations
        for violation in Violation.allCases where counters[violation] != expected[violation, default: 0] {
            world.complain(
                "attacker: \(violation) counted \(counters[violation]), not \(expected[violation, default: 0])")
        }
        if backend.queue.condition != .running { world.complain("attacker: \(backend.queue.condition)") }
        checkHost()
    }

    /// What no guest can bring about.
    func checkHost() {
        if disk.volume.malformed + backend.engine.malformed > 0 { world.complain("attacker: malformed operations") }
        if backend.engine.underWay > 0 { world.complain("attacker: operations under way") }
        // A stopped ring keeps its answers, and what they hold, until the device is closed.
        if backend.queue.condition == .running, !backend.givesAllMemoryBack() {
            world.complain("attacker: buffer memory is not given back")
        }
    }
}

/// Runs a hostile guest beside an honest one for every seed; the honest one must not notice.
func attack(
    _ scenario: Scenario = Scenario(name: "attacker", requests: 0), limits: RequestLimits? = nil,
    seeds: Range<UInt64> = Seeds.all, honestRequests: Int = 10, location: SourceLocation = #_sourceLocation,
    _ plan: (Attacker) throws -> Void, check: (Attacker) -> Void
) throws {
    let honest = Scenario(name: "honest", mix: .init(indirectRead: 2, flush: 1), requests: honestRequests)
    for seed in seeds {
        let world = try World(honest, seed: seed)
        let attacker = try Attacker(world, scenario, limits: limits)
        try plan(attacker)
        _ = world.run()
        world.checkAllAnswered()
        check(attacker)
        // Actors hold the attacker, which holds the world.
        world.simulation.removeActors()
        if let complaint = world.complaint {
            Issue.record("\(scenario.name), seed \(seed): \(complaint)", sourceLocation: location)
            return
        }
    }
}
