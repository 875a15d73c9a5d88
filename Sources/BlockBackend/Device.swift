internal import Descriptors
public import Logging
public import SharedRing
public import Telemetry
internal import XenWire
public import Xenbus
internal import Xenstore

/// One virtual disk: opens its volume and runs its queues while a frontend is connected. Used from the control thread
/// only.
public final class Device: SplitDevice {
    private let identity: DeviceIdentity
    private let options: DeviceOptions
    private let platform: any RingPlatform
    private let clock: any Clock
    private let records: any DeviceRecords
    private let log: Logger
    private let journals: DeviceJournals
    private var session: DeviceSession?
    private var postponed: (attempt: PostponedAdoption, reason: String)?
    /// The guest's rings are about to be replaced by new ones, under state 4.
    private var replacesRings = false
    /// Since when rings are tried in vain that an earlier process may have begun to serve.
    private var unsaid: PostponedAdoption?
    /// What closing the volume has found out, to be told.
    private var lateFailure: DeviceFailure?
    /// What the guest was told is what an earlier process offered.
    private var goesByEarlierOffer = false

    /// - Parameters:
    ///   - platform: grants and event channels.
    ///   - records: what outlives the process.
    public init(
        _ identity: DeviceIdentity, _ options: DeviceOptions, platform: any RingPlatform, clock: any Clock,
        records: any DeviceRecords, log: Logger
    ) {
        self.identity = identity
        self.options = options
        self.platform = platform
        self.clock = clock
        self.records = records
        journals = DeviceJournals(identity, records)
        var log = log
        log[metadataKey: "device"] = "\(identity)"
        self.log = log
    }

    // MARK: keys

    public var backendKeys: [String] { DiskSettings.keys + DeviceOptions.publishedKeys }
    public var frontendKeys: [String] { Connection.fixedKeys }
    public var transportKeys: [PublishedKey] { options.offer.transportKeys }

    public func frontendKeys(after known: NodeValues) -> [String] {
        // Of who is connected already, too: that may be more than is offered now.
        Connection.ringKeys(after: known, .agreed([:], options.offer))
    }

    // MARK: life

    public func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        guard !replacesRings else { return try serve(frontend, backend, adopts: false) }
        let attempt = unsaid ?? PostponedAdoption(frontend, backend, adopts: false, since: clock.now())
        unsaid = nil
        do {
            return try start(frontend, backend, adopting: false)
        } catch let error where journals.exist && attempt.mayGoOn(after: error, now: clock.now()) {
            // As for rings under state 4; this guest waits for our 4.
            unsaid = attempt
            throw DeviceFailure("not served on yet, the guest waits: \(error)", .attempt)
        } catch {
            throw failure("\(error)", error)
        }
    }

    /// Serves on what an earlier process has served, as its journals say. A guest that has made itself new rings meanwhile
    /// starts afresh. Of rings without a journal nobody knows what was done, so they are not touched. What the host lacks just
    /// now, the volume or memory, is waited for: the guest notices a longer pause, where it would lose a disk.
    public func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        goesByEarlierOffer = true
        return try serve(frontend, backend, adopts: true)
    }

    private func serve(
        _ frontend: NodeValues, _ backend: NodeValues, adopts: Bool
    ) throws(DeviceFailure) -> [PublishedKey] {
        try serve(PostponedAdoption(frontend, backend, adopts: adopts, since: clock.now()))
    }

    private func serve(_ attempt: PostponedAdoption) throws(DeviceFailure) -> [PublishedKey] {
        let isFirst = postponed == nil
        (postponed, replacesRings) = (nil, false)
        do {
            return try start(attempt.frontend, attempt.backend, adopting: attempt.adopts)
        } catch let error where attempt.mayGoOn(after: error, now: clock.now()) {
            let reason = "not served on yet, the guest waits: \(error)"
            postponed = (attempt, reason)
            if isFirst { log.critical("\(reason)") }
            return [PublishedKey("error", reason)]
        } catch {
            throw failure("cannot be served on, the guest loses it: \(error)", error)
        }
    }

    private func failure(_ reason: String, _ error: any Error) -> DeviceFailure {
        guard error is DeviceJournals.FlushFailure else { return DeviceFailure(reason) }
        write(.failure, reason)
        return DeviceFailure(reason, .device)
    }

    private func servePostponed() -> [DeviceNews] {
        guard let attempt = postponed?.attempt else { return [] }
        do throws(DeviceFailure) {
            let keys = try serve(attempt)
            return postponed == nil ? [.changed(keys)] : []
        } catch {
            return [.failed(error)]
        }
    }

    private func start(
        _ frontend: NodeValues, _ backend: NodeValues, adopting: Bool
    ) throws -> [PublishedKey] {
        let session: DeviceSession
        do {
            session = try makeSession(frontend, backend, adopting: adopting)
        } catch JournalAbsence.otherRings {
            log.notice("\(JournalAbsence.otherRings)")
            return try start(frontend, backend, adopting: false)
        }
        log.info("\(session.recovers ? "served on: " : "")\(session.summary)")
        if !session.canBeAdopted {
            log.warning("the volume cannot be locked: a kill of this process costs the guest the disk")
        }
        self.session = session
        return session.description.keys
    }

    private func makeSession(
        _ frontend: NodeValues, _ backend: NodeValues, adopting: Bool
    ) throws -> DeviceSession {
        // What is connected stays as it was agreed, whatever is offered to others now.
        let options = goesByEarlierOffer ? options.agreed(backend) : options
        let connection = try Connection.negotiate(frontend, options.offer)
        let (journals, vm) = (journals, backend[DomainKeys.vm]?.text)
        let keeping = DeviceSession.Keeping(
            journals: { volume in
                guard let volume else { return (try journals.giveUp(), false) }
                guard adopting else { return try journals.findOrMake(connection, volume: volume, vm: vm) }
                return (try journals.find(connection, volume: volume, vm: vm), true)
            }, adopts: adopting, device: identity.number, host: host)
        return try DeviceSession(
            "\(identity)", frontend: identity.deviceClass.frontend, options, DiskSettings(backend), connection, keeping,
            platform: platform, clock: clock)
    }

    /// Any number that is the same until the host is started again.
    private var host: UInt16 { records.boot.utf8.reduce(0) { ($0 &* 31) &+ UInt16($1) } }

    public func suspend() {
        replacesRings = true
        postponed = nil
        session?.stop()
        session = nil
    }

    /// The rings are given up: nobody is to find a journal of them, as long as it says no more than that.
    public func disconnect() {
        (postponed, replacesRings) = (nil, false)
        guard let session else { return }
        session.stop()
        noteFlushFailure()
        guard session.isFenceOpen else { return }
        self.session = nil
        removeJournals()
    }

    /// Also of a connection that ended while nobody served it.
    public func closeVolume() {
        (postponed, unsaid, replacesRings) = (nil, nil, false)
        goesByEarlierOffer = false
        awaitEarlierProcess()
        session = nil
        noteFlushFailure()
        removeJournals()
    }

    /// Of a guest that closed before anybody had seen it.
    private func noteFlushFailure() {
        guard recordedFailure == nil, let fault = journals.flushFailure() else { return }
        lateFailure = failure("\(fault)", DeviceJournals.FlushFailure(fault: fault))
    }

    /// A process before this one may have been killed with writes under way that this one never came to wait for. After our
    /// state 6 the toolstack may start another guest on the volume.
    private func awaitEarlierProcess() {
        if let session { return wait(for: session.fence) }
        for place in journals.placesInUse() {
            do throws(Fault) {
                let descriptor = try place.open()
                wait(for: fence(descriptor.number))
            } catch {
                log.warning("whether an earlier process's I/O is over is not known: \(error)")
            }
        }
    }

    private func wait(for fence: VolumeFence?) {
        do throws(Fault) {
            guard let fence, try !fence.pass() else { return }
            log.warning("an earlier process's I/O is under way: the disk closes when it is over")
            try fence.wait()
        } catch {
            log.warning("whether an earlier process's I/O is over is not known: \(error)")
        }
    }

    private func fence(_ descriptor: Int32) -> VolumeFence {
        VolumeFence(descriptor, domain: identity.deviceClass.frontend, device: identity.number, host: host)
    }

    private func removeJournals() {
        do throws(Fault) { try journals.remove() } catch { log.error("\(error)") }
    }

    public var isPeerAlive: Bool { session?.isPeerAlive(on: platform) ?? (postponed != nil) }

    // MARK: news

    public var attention: Int32 { session?.attention ?? -1 }

    public func attend() -> [DeviceNews] {
        if let failure = lateFailure {
            lateFailure = nil
            return [.failed(failure)]
        }
        guard let session else { return servePostponed() }
        return session.changedConditions().compactMap { news(of: $0, $1) } + resized(session)
    }

    private func news(of queue: Int, _ condition: QueueCondition) -> DeviceNews? {
        switch condition {
        case .running: log.notice("queue \(queue): there is room again, held writes go on")
        case .paused(let fault): log.critical("queue \(queue): \(fault): writes are held until there is room")
        case .violated(let violation):
            return .failed(DeviceFailure("queue \(queue): the frontend broke a rule: \(violation.name)"))
        case .failed(let fault):
            let reason = "queue \(queue): \(fault)"
            write(.failure, reason)
            return .failed(DeviceFailure(reason, .device))
        }
        return nil
    }

    private func resized(_ session: DeviceSession) -> [DeviceNews] {
        do throws(Fault) {
            guard let keys = try session.refreshCapacity() else { return [] }
            log.notice("resized to \(session.description.sectors) sectors")
            return [.changed(keys)]
        } catch {
            log.warning("\(error)")
            return []
        }
    }

    // MARK: records

    private enum Record: String {
        /// Why the device failed for good.
        case failure
    }

    public var recordedFailure: String? { read(.failure) }

    public func forgetFailure() {
        lateFailure = nil
        write(.failure, nil)
    }

    private func read(_ record: Record) -> String? {
        do throws(Fault) {
            return try records.record("\(identity.number).\(record.rawValue)")
        } catch {
            // A record that exists and cannot be read has to be taken seriously.
            log.error("\(error)")
            return record == .failure ? "\(error)" : nil
        }
    }

    private func write(_ record: Record, _ text: String?) {
        do throws(Fault) {
            try records.setRecord("\(identity.number).\(record.rawValue)", text)
        } catch {
            log.error("\(error)")
        }
    }

    /// For the status file.
    public var status: JSON? { session?.status ?? postponed.map { ["waits_for": .string($0.reason)] } }
}
