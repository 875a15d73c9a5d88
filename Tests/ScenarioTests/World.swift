import BlockBackend
import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import XenWire

/// A device, its backend and a guest, run from a seed.
final class World {
    let scenario: Scenario
    let simulation: Simulation
    let platform = ModelPlatform()
    let disk: Disk
    let guest: GuestDomain
    let frontends: [Frontend]
    let backends: [Backend]
    private let complaints: Complaints

    /// What went wrong.
    final class Complaints {
        var all: [String] = []
    }

    static let guestID = DomainID(7)

    init(_ scenario: Scenario, seed: UInt64) throws(Fault) {
        self.scenario = scenario
        let simulation = Simulation(seed: seed)
        self.simulation = simulation
        let disk = try Disk(scenario)
        self.disk = disk
        let complaints = Complaints()
        self.complaints = complaints
        let pages = UInt32(scenario.queues * (scenario.dataPages + scenario.ringPages))
        guest = try platform.createDomain(Self.guestID, pages: pages + 8, references: pages + 8)
        var frontends: [Frontend] = []
        var backends: [Backend] = []
        for queue in 0..<scenario.queues {
            let frontend = try Frontend(scenario, queue: queue, disk, guest) { [unowned simulation] in
                complaints.all.append("step \(simulation.steps), queue \(queue): \($0)")
            }
            frontend.toleratesErrors = scenario.failed > 0
            frontends.append(frontend)
            backends.append(
                try Backend(scenario, frontend.ring, of: Self.guestID, disk, platform, simulation, index: queue))
        }
        self.frontends = frontends
        self.backends = backends
        addActors()
    }

    func complain(_ text: String) { complaints.all.append("step \(simulation.steps): \(text)") }
    var complaint: String? { complaints.all.first }

    // MARK: Actors

    private func addActors() {
        for (frontend, backend) in zip(frontends, backends) {
            simulation.add(ready: { frontend.mayPut }, step: frontend.put)
            simulation.add(ready: { frontend.mustPublish }, step: frontend.publish)
            simulation.add(ready: { frontend.hasEvent }, step: frontend.serve)
            simulation.add(ready: { backend.isReady }, step: { _ in backend.step() })
            simulation.add(ready: { backend.engine.isBusy }, step: { backend.engine.step(&$0.random) })
            simulation.add(
                ready: { [disk] in
                    backend.mayTimeOut(hasRoom: !disk.volume.isFull, guestIsIdle: frontend.open.isEmpty)
                }, step: { _ in backend.timeOut() })
        }
        simulation.add(ready: { [disk] in disk.discards.isBusy }, step: { [disk] in disk.discards.step(&$0.random) })
        var events: [PendingEvent] = []
        simulation.add(
            ready: { [platform] in
                events = platform.deliverable
                return !events.isEmpty
            }, step: { simulation in events[simulation.random.below(events.count)].deliver() })
        if scenario.timesFull > 0 { addFullVolume() }
        if scenario.synchronizeError != nil { addFailingFlush() }
        if scenario.stops { addStop() }
    }

    /// Now and then there is no room for a while.
    private func addFullVolume() {
        var changes = scenario.timesFull * 2
        simulation.add(
            ready: { changes > 0 },
            step: { [disk] simulation in
                guard disk.volume.isFull || simulation.random.chance(perThousand: 50) else { return }
                disk.volume.isFull.toggle()
                changes -= 1
            })
    }

    private func addFailingFlush() {
        simulation.add(
            ready: { [disk] in disk.volume.synchronizeError == nil },
            step: { [disk, scenario] simulation in
                guard simulation.random.chance(perThousand: 20) else { return }
                disk.volume.synchronizeError = scenario.synchronizeError
            })
    }

    private func addStop() {
        let backends = self.backends
        let frontends = self.frontends
        simulation.add(
            ready: { backends.contains { !$0.isStopping } },
            step: { simulation in
                guard simulation.random.chance(perThousand: 10) else { return }
                for frontend in frontends { frontend.giveUp() }
                for backend in backends { backend.stop() }
            })
    }

    // MARK: Running

    /// Runs until nobody is ready; says what went wrong, if anything.
    func run() -> String? {
        if !simulation.run(limit: 400_000) { complain("no end after \(simulation.steps) steps") }
        checkHost()
        return complaint
    }

    /// What must hold in every world.
    private func checkHost() {
        if disk.discards.malformed > 0 { complain("\(disk.discards.malformed) malformed discards") }
        if disk.volume.malformed > 0 { complain("\(disk.volume.malformed) malformed operations on the volume") }
        for backend in backends where backend.engine.malformed > 0 { complain("malformed submissions") }
    }

    /// What must hold where nothing stops a queue: all is answered, nothing is left behind.
    func checkAllAnswered() {
        for (index, frontend) in frontends.enumerated() where !frontend.isDone {
            complain("queue \(index): \(frontend.open.count) unanswered, \(frontend.remaining) not put")
        }
        for backend in backends where backend.queue.condition != .running {
            complain("condition \(backend.queue.condition)")
        }
        for backend in backends where !backend.queue.isDrained || backend.engine.underWay > 0 {
            complain("not drained")
        }
        for backend in backends where !backend.givesAllMemoryBack() { complain("buffer memory is not given back") }
    }
}
