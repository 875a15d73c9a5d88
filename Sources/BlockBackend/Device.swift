internal import Descriptors
public import Logging
public import SharedRing
public import Telemetry
internal import XenWire
public import Xenbus

/// One virtual disk: opens its volume and runs its queues while a frontend is connected. Used from the control thread
/// only.
public final class Device: SplitDevice {
    private let identity: DeviceIdentity
    private let options: DeviceOptions
    private let platform: any RingPlatform
    private let clock: any Clock
    private let records: any DeviceRecords
    private let log: Logger
    private var session: DeviceSession?

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
        var log = log
        log[metadataKey: "device"] = "\(identity)"
        self.log = log
    }

    // MARK: keys

    public var backendKeys: [String] { DiskSettings.keys }
    public var frontendKeys: [String] { Connection.fixedKeys }
    public var transportKeys: [PublishedKey] { options.offer.transportKeys }

    public func frontendKeys(after known: NodeValues) -> [String] {
        Connection.ringKeys(after: known, options.offer)
    }

    // MARK: life

    public func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        // From now on the rings are in use: whoever finds this process dead must not take them for drained.
        write(.drained, nil)
        let session = try makeSession(frontend, backend)
        log.info("\(session.summary)")
        self.session = session
        return session.description.keys
    }

    private func makeSession(_ frontend: NodeValues, _ backend: NodeValues) throws(DeviceFailure) -> DeviceSession {
        do {
            return try DeviceSession(
                "\(identity)", frontend: identity.deviceClass.frontend, options, DiskSettings(backend),
                Connection.negotiate(frontend, options.offer), platform: platform, clock: clock)
        } catch {
            throw DeviceFailure("\(error)")
        }
    }

    /// Only rings that were left drained can be taken over: everything that was taken from them was answered too. Of
    /// others nobody knows which requests were done.
    public func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        guard read(.drained) != nil else {
            throw DeviceFailure("the process that served the device before ended with requests in flight")
        }
        return try connect(frontend: frontend, backend: backend)
    }

    public func suspend() {
        guard let session else { return }
        session.stop()
        if session.isDrained { write(.drained, "drained") }
        self.session = nil
    }

    public func disconnect() { session?.stop() }

    public func closeVolume() { session = nil }

    public var isPeerAlive: Bool { session?.isPeerAlive(on: platform) ?? false }

    // MARK: news

    public var attention: Int32 { session?.attention ?? -1 }

    public func attend() -> [DeviceNews] {
        guard let session else { return [] }
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
        /// All queues had come to rest when the last process left the device.
        case drained
    }

    public var recordedFailure: String? { read(.failure) }

    public func forgetFailure() { write(.failure, nil) }

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
    public var status: JSON? { session?.status }
}
