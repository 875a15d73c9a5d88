import BlockBackend
package import Descriptors
import Glibc
import Loopback
import SharedRing
import XenWire

/// A device whose process is killed again and again, at any step and between any two stores, and guests that must not
/// notice: the whole history follows from the seed.
package final class TortureWorld {
    package struct Tally: Sendable {
        package var answered = 0
        /// Of those, with an error: of the volume, or because processes ended for them.
        package var refused = 0
        package var kills = 0
        /// Of those, inside a step, and of those at a single store.
        package var insideSteps = 0
        package var atStores = 0
        /// Kills of processes that were not done with recovering.
        package var whileRecovering = 0
        /// Kills that were faults of the process' own.
        package var faults = 0
        package var steps = 0

        package init() {}
        package static func += (left: inout Tally, right: Tally) {
            left.answered += right.answered
            left.refused += right.refused
            left.kills += right.kills
            left.insideSteps += right.insideSteps
            left.atStores += right.atStores
            left.whileRecovering += right.whileRecovering
            left.faults += right.faults
            left.steps += right.steps
        }
    }

    package private(set) var tally = Tally()
    /// A digest of everything that happened.
    package private(set) var digest: UInt64 = 0xcbf2_9ce4_8422_2325

    private let plan: TorturePlan
    private let mutant: Mutant?
    private var random: SeededRandom
    private let clock = ModelClock()
    private let platform = ModelPlatform()
    private let record: TortureRecord
    private let guests: [TortureGuest]
    private let memories: [KillSwitch.Persistent]
    private let journals: [Journal]
    private let zombies: Zombies
    private var process: TortureProcess?
    private var generation = 0
    /// Queues that are in the middle of a step, as bits.
    private var busy = 0
    private var events: [PendingEvent] = []
    private var nextKill = 0
    /// The guests do nothing while there is no process.
    private var guestsWait = false
    private var killsAtStores = false
    /// Thousandths of the chances that what a dead process has submitted makes use of.
    private var zombieHaste = 1000

    private static let guestID = DomainID(7)

    package init(_ plan: TorturePlan, seed: UInt64, mutant: Mutant? = nil) throws(Fault) {
        self.plan = plan
        self.mutant = mutant
        random = SeededRandom(seed: seed)
        let record = TortureRecord(plan)
        self.record = record
        zombies = Zombies(record.volume)
        let pages = UInt32(plan.queues * (TortureGuest.pages(plan) + plan.ringPages))
        let domain = try platform.createDomain(Self.guestID, pages: pages + 8, references: pages + 8)
        var guests: [TortureGuest] = []
        var memories: [KillSwitch.Persistent] = []
        for queue in 0..<plan.queues {
            let guest = try TortureGuest(record, queue: queue, domain)
            guests.append(guest)
            let file = try Self.journalFile(entries: Int(guest.ring.size))
            memories.append(unsafe KillSwitch.Persistent(journal: file, ring: guest.ring.memory))
        }
        self.guests = guests
        self.memories = memories
        journals = memories.map { Journal(making: $0.journal, for: JournalIdentity([])) }
        addActors()
        planKill()
    }

    /// A file that nobody finds any more; what matters is that it is memory of its own.
    private static func journalFile(entries: Int) throws(Fault) -> MappedFile {
        let bytes = (Journal.headerSize + InFlightTable.bytes(entries: entries) + 4095) / 4096 * 4096
        let path = "/dev/shm/xen-torture-\(getpid())-\(UInt64.random(in: .min ... .max))"
        defer { unsafe unlink(path) }
        return try MappedFile(creating: path, bytes: bytes)
    }

    // MARK: Actors

    private enum Actor {
        case put(Int), publish(Int), serve(Int), queue(Int), volume(Int)
        case events, discards, zombies, start, fill
    }

    /// Who is chosen how often.
    private var actors: [Actor] = []

    private func addActors() {
        for queue in 0..<plan.queues {
            actors += [.put(queue), .publish(queue), .serve(queue), .queue(queue), .queue(queue)]
            actors += [.volume(queue), .volume(queue), .volume(queue), .events]
        }
        actors += [.zombies, .start]
        if plan.mix.discard > 0 { actors.append(.discards) }
        if plan.runsFull { actors.append(.fill) }
    }

    private func isReady(_ actor: Actor) -> Bool {
        switch actor {
        case .put(let queue): guestsRun && guests[queue].mayPut
        case .publish(let queue): guestsRun && guests[queue].mustPublish
        case .serve(let queue): guestsRun && guests[queue].ring.hasEvent
        case .queue(let queue): isReady(queue: queue)
        case .volume(let queue): self.queue(queue)?.engine.isBusy ?? false
        case .events: hasEvents
        case .discards: record.discards.isBusy
        case .zombies: !zombies.isEmpty
        case .start: startedQueues < plan.queues
        case .fill: record.volume.isFull
        }
    }

    private var guestsRun: Bool { !guestsWait || startedQueues == plan.queues }
    private var startedQueues: Int { process?.queues.count ?? 0 }

    private func queue(_ index: Int) -> TortureQueue? {
        guard let process, index < process.queues.count else { return nil }
        return process.queues[index]
    }

    private func isReady(queue index: Int) -> Bool {
        guard busy & 1 << index == 0, let queue = queue(index), let process else { return false }
        // R0: a queue's thread waits for the fence before its first turn.
        if !process.hasPassedFence { process.hasPassedFence = zombies.isEmpty || mutant == .noFence }
        return process.hasPassedFence && queue.isReady(hasRoom: !record.volume.isFull)
    }

    private func step(_ actor: Actor) {
        switch actor {
        case .put(let queue): guests[queue].put(&random)
        case .publish(let queue): guests[queue].publish()
        case .serve(let queue): guests[queue].serve()
        case .queue(let queue): stepQueue(queue)
        case .volume(let queue): self.queue(queue)?.engine.step(&random)
        case .events: deliverEvent()
        case .discards: record.discards.step(&random)
        case .zombies: if random.chance(perThousand: zombieHaste) { zombies.step(&random, record.discards.discard) }
        case .start: start()
        case .fill: record.volume.isFull = false
        }
    }

    private var hasEvents: Bool {
        events = platform.deliverable
        return !events.isEmpty
    }

    private func deliverEvent() {
        if !events.isEmpty { events[random.below(events.count)].deliver() }
    }

    private func stepQueue(_ index: Int) {
        let tidies = random.chance(perThousand: 10)
        busy |= 1 << index
        queue(index)?.step(tidies: tidies)
        busy &= ~(1 << index)
        guard busy == 0 else { return }
        if process?.killSwitch.isHit ?? false {
            if random.chance(perThousand: plan.faults) { noteFault(index) }
            return killed(insideStep: true)
        }
        switch queue(index)?.condition {
        case .running, .paused, nil: break
        case .violated(let violation): record.complain("queue \(index): \(violation)")
        case .failed(let fault): record.complain("queue \(index): \(fault)")
        }
    }

    /// While a queue makes a call, the guests, the kernel and the other queues' threads go on: they may be in the middle of
    /// something, too, when the process is killed.
    private func interlude() {
        guard busy != 0, busy.nonzeroBitCount < 4, random.chance(perThousand: 60) else { return }
        let actor = actors[random.below(actors.count)]
        if case .start = actor { return }
        guard isReady(actor) else { return }
        tick()
        step(actor)
    }

    private func tick() {
        record.now += 1
        clock.advance(by: 100 + UInt64(random.below(10_000)))
    }

    // MARK: Lives and deaths

    /// Makes a new process, or its next queue: they start one after the other, as a daemon's do.
    private func start() {
        do throws(Fault) {
            let process: TortureProcess
            if let current = self.process { process = current } else { process = try makeProcess() }
            self.process = process
            let parts = parts(process, process.queues.count)
            process.queues.append(try TortureQueue(parts, process.killSwitch))
        } catch {
            // What happens to a process after its death is not of this world.
            if !(process?.killSwitch.isHit ?? false) { record.complain("recovery: \(error)") }
        }
        if process?.killSwitch.isHit ?? false { killed(insideStep: true) }
    }

    private func makeProcess() throws(Fault) -> TortureProcess {
        if generation > 0 { tamper() }
        let process = try TortureProcess(
            plan, clock, record.discards, recovers: generation > 0, mutant: mutant)
        process.killSwitch.interlude = { [unowned self] in interlude() }
        if random.chance(perThousand: plan.killAgain) { arm(process) }
        return process
    }

    private func parts(_ process: TortureProcess, _ queue: Int) -> TortureQueue.Parts {
        TortureQueue.Parts(
            plan: plan, index: queue, ring: guests[queue].ring, domain: Self.guestID, platform: platform,
            volume: record.volume, clock: process.clock, shared: process.shared(queue), memory: memories[queue],
            journal: journals[queue], recovers: process.recovers,
            notificationsLost: process.recovers && mutant == .silentRecovery ? 1 : 0)
    }

    private func planKill() { nextKill = record.answered + 1 + random.below(2 * plan.killEvery) }

    /// A process that is starting has a kill of its own, or none.
    private func killIfDue() {
        guard record.answered >= nextKill, let process, startedQueues == plan.queues, !process.killSwitch.isArmed else {
            return
        }
        planKill()
        if random.chance(perThousand: 250) { killed(insideStep: false) } else { arm(process) }
    }

    private func arm(_ process: TortureProcess) {
        let isFine = random.chance(perThousand: 500)
        killsAtStores = isFine
        let events = 1 + random.below(1 << (isFine ? 2 + random.below(7) : 1 + random.below(4)))
        process.killSwitch.arm(after: events, watchingStores: isFine)
    }

    private func killed(insideStep: Bool) {
        tally.kills += 1
        if insideStep { tally.insideSteps += 1 }
        if insideStep && killsAtStores { tally.atStores += 1 }
        if startedQueues < plan.queues || !(process?.hasPassedFence ?? false) { tally.whileRecovering += 1 }
        note(UInt64(tally.kills))
        for queue in process?.queues ?? [] { zombies.adopt(queue.engine.abandon()) }
        zombies.adopt(record.discards.abandon())
        process = nil
        generation += 1
        guestsWait = random.chance(perThousand: 400)
        zombieHaste = [10, 100, 1000][random.below(3)]
        planKill()
    }

    /// What the handler of a process that ends by its own fault stores.
    private func noteFault(_ queue: Int) {
        // Three words: faults, the entry that is done alone, the entry whose fault it was.
        let words = unsafe journals[queue].faultRecord.assumingMemoryBound(to: UInt32.self)
        unsafe words[0] &+= 1
        if unsafe words[1] != 0 { unsafe words[2] = unsafe words[1] }
        tally.faults += 1
    }

    // MARK: Running

    /// Runs until all is answered, or something is wrong, and says what.
    package func run() -> String? {
        while record.complaint == nil, let actor = nextActor() {
            tick()
            step(actor)
            killIfDue()
            if plan.runsFull, random.chance(perThousand: 2) { record.volume.isFull = true }
            if record.now > 1000 * plan.requests { record.complain("no end") }
        }
        if record.complaint == nil { checkEnd() }
        tally.answered = record.answered
        tally.refused = record.refused
        tally.steps = record.now
        return record.complaint
    }

    /// Somebody who is ready; nil once nobody is.
    private func nextActor() -> Actor? {
        for _ in 0..<2 * actors.count {
            let choice = random.below(actors.count)
            guard isReady(actors[choice]) else { continue }
            note(UInt64(choice))
            return actors[choice]
        }
        let ready = actors.filter(isReady)
        return ready.isEmpty ? nil : ready[random.below(ready.count)]
    }

    private func note(_ value: UInt64) { digest = (digest ^ value) &* 0x100_0000_01b3 }

    private func checkEnd() {
        for (queue, guest) in guests.enumerated() where !guest.isDone {
            return record.complain("queue \(queue) is stuck: \(guest.summary)")
        }
        for sector in 0..<plan.sectors {
            record.read(sector, record.volume.words(sector: sector).current, began: record.now, "in the end")
        }
        if let violation = record.history.violation() { record.complain(violation) }
        if record.ordersEffects, let violation = record.barriers.violation(record.volume.effects) {
            record.complain(violation)
        }
        if record.volume.malformed + record.discards.malformed > 0 { record.complain("malformed operations") }
    }

    // MARK: Mutants

    /// What some mutants do to the journals before they are read.
    private func tamper() {
        guard let mutant else { return }
        for (memory, guest) in zip(memories, guests) {
            for entry in 0..<Int(guest.ring.size) {
                let place = unsafe memory.journal.base + Journal.headerSize + 128 * (entry + 1)
                unsafe tamper(place, mutant)
            }
        }
    }

    /// An entry: tag u64 = sequence << 2 | state, with the mark at 14 and the operation at 16.
    private func tamper(_ entry: UnsafeMutableRawPointer, _ mutant: Mutant) {
        let tag = unsafe entry.load(as: UInt64.self)
        switch mutant {
        case .unmarked: unsafe entry.storeBytes(of: 0, toByteOffset: 14, as: UInt8.self)
        case .allMarked: unsafe entry.storeBytes(of: 1, toByteOffset: 14, as: UInt8.self)
        case .forgottenAnswers where tag & 3 == 2: unsafe entry.storeBytes(of: tag ^ 3, as: UInt64.self)
        default: break
        }
    }
}
