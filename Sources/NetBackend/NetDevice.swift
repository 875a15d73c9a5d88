internal import CLinux
internal import CXen
internal import Descriptors
internal import Glibc
public import Logging
internal import NetFrames
public import SharedRing
internal import Tap
public import Telemetry
internal import XenWire
public import Xenbus
internal import Xenstore

/// One virtual network interface: a TAP device that the toolstack's scripts attach, and queues between it and the guest
/// while a frontend is connected. Used from the control thread only.
public final class NetDevice: SplitDevice {
    private let identity: DeviceIdentity
    private let offer: NetOffer
    private let filters: Bool
    private let attachment: NetAttachment
    private let platform: any RingPlatform
    private let records: any InterfaceRecords
    private let journals: NetJournals
    private let means: Result<Means, Fault>
    /// What is offered, or was to the guest that is connected.
    private var served: NetOffer
    private let log: Logger
    private var connection: NetConnection?
    private var queues: [NetQueueThread] = []
    private var control: ControlThread?
    private var policy = SharedReceivePolicy()
    private var conditions: [NetCondition] = []
    private let limit = RateLimit()
    /// The toolstack's nodes that the connection goes by, as the journals say as well.
    private var followed: NodeValues?
    /// The guest's that it is for.
    private var vm: String?

    /// Makes the TAP device, down: it must be there before the toolstack's script is told of the interface (state 2), and
    /// the script sets it up. It outlives the process, as long as the interface does.
    ///
    /// - Parameters:
    ///   - filters: interfaces send only what is their guest's own, unless their node `filter` says otherwise.
    ///   - attachment: how interfaces without a script are attached.
    ///   - records: what outlives the process.
    public init(
        _ identity: DeviceIdentity, _ offer: NetOffer, filters: Bool, attachment: NetAttachment,
        platform: any RingPlatform, records: any InterfaceRecords, log: Logger
    ) {
        self.identity = identity
        self.offer = offer
        self.filters = filters
        self.attachment = attachment
        self.platform = platform
        var log = log
        log[metadataKey: "device"] = "\(identity)"
        self.log = log
        self.records = records
        let journals = NetJournals(identity, records)
        self.journals = journals
        let left = journals.left
        // What is connected stays as it was agreed, whatever is offered to others now.
        served = left > 0 ? NetOffer() : offer
        means = Result { () throws(Fault) in
            try journals.noteDevice()
            let means = try Means(
                journals.deviceName, identity.number, queues: max(offer.queues, left), isConnected: left > 0, records)
            try journals.note(device: means.tap.index)
            return means
        }
    }

    /// What an interface needs whether or not a frontend is there.
    private struct Means {
        let tap: TapDevice
        let attention: Attention

        init(
            _ name: String, _ number: UInt32, queues: Int, isConnected: Bool, _ records: any InterfaceRecords
        ) throws(Fault) {
            attention = try Attention()
            let kept = KeptQueues(of: number, records)
            let left = kept.take()
            tap = try TapDevice(name, queues: queues, keepsCarrier: isConnected, left: left)
            try tap.setPersistent(true)
            // What the guest does not take is done here.
            try tap.setOffloads([.checksum, .segmentationV4, .segmentationV6])
            kept.keep(tap.queues, after: left.count)
        }
    }

    /// How queues call for the control thread.
    private final class Attention: Sendable {
        private let event: OwnedDescriptor

        init() throws(Fault) {
            event = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
        }

        var number: Int32 { event.number }
        func take() { _ = linux_eventfd_take(event.number) }
    }

    /// Not when the value ends: processes end, and fail, beside interfaces that no script is run for again.
    ///
    /// The kept queues first, whatever else fails: the device stays as long as somebody has one, and means that could not be
    /// had may have taken them.
    public func discard() {
        KeptQueues(of: identity.number, records).forget()
        attempt { () throws(Fault) in
            try removeDevice()
            // Else the next process finds the record, and tries again.
            try journals.forgetDevice()
        }
    }

    private func removeDevice() throws(Fault) {
        switch means {
        case .success(let means): try means.tap.setPersistent(false)
        case .failure: try TapDevice.remove(journals.deviceName)
        }
    }

    private func attempt(_ step: () throws(Fault) -> Void) {
        do throws(Fault) { try step() } catch { log.warning("\(error)") }
    }

    /// The records of interface `number`.
    public static func recordNames(of number: UInt32) -> [String] { NetJournals.names(of: number) }

    /// Whose queue was left under this name; nil if it is no name of ours.
    public static func interface(ofDescriptor name: String) -> UInt32? { KeptQueues.interface(of: name) }

    /// What the TAP device of an interface that is gone is called now, which a script may have renamed.
    ///
    /// - Parameter record: what the record `tapRecordName` says.
    public static func deviceName(_ domain: UInt16, _ number: UInt32, record: String?, boot: String) -> String {
        TapRecord.name(in: record, boot: boot, otherwise: "vif\(domain).\(number)")
    }

    /// The record that says that there is a TAP device, and which.
    public static func tapRecordName(of number: UInt32) -> String { NetJournals.tapName(of: number) }

    // MARK: keys

    public var backendKeys: [String] { InterfaceSettings.keys + NetAttachment.keys }
    public var liveBackendKeys: [String] { InterfaceSettings.liveKeys }
    public var frontendKeys: [String] { NetConnection.fixedKeys }
    public var liveFrontendKeys: [String] { LiveSettings.keys }
    public var transportKeys: [PublishedKey] {
        guard case .failure(let fault) = means else { return offer.transportKeys }
        // The script is going to miss the TAP device, and will not know why.
        return offer.transportKeys + [PublishedKey("hotplug-error", "\(fault)")]
    }

    public func frontendKeys(after known: NodeValues) -> [String] { NetConnection.ringKeys(after: known, served) }

    // MARK: life

    public func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        do {
            let means = try means.get()
            let connection = try negotiate(frontend, means)
            let settings = try settings(backend)
            let hotplug = try attach(backend, means)
            let kept = try journals.findOrMake(connection, vm: backend[DomainKeys.vm]?.text)
            try means.tap.resetSteering()
            try start(Start(connection, settings, kept.set, recovers: kept.areFound), frontend, means)
            return [PublishedKey("carrier", 1)] + hotplug
        } catch {
            disconnect()
            throw DeviceFailure("\(error)", keys: NetAttachment.keys(after: error))
        }
    }

    /// Serves on what an earlier process has served, as its journals say. A guest that has made itself new rings meanwhile
    /// starts afresh. Of rings without a journal nobody knows what is on them, so they are not touched.
    public func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        do {
            try serveOn(frontend, backend)
        } catch JournalAbsence.otherRings {
            log.notice("\(JournalAbsence.otherRings)")
            return try connect(frontend: frontend, backend: backend)
        } catch {
            disconnect()
            throw DeviceFailure("cannot be served on, the guest loses it: \(error)")
        }
        return [PublishedKey("carrier", 1)]
    }

    private func serveOn(_ frontend: NodeValues, _ backend: NodeValues) throws {
        let means = try means.get()
        let connection = try negotiate(frontend, means)
        let kept = try journals.find(connection, vm: backend[DomainKeys.vm]?.text)
        try start(Start(connection, try settings(backend), kept, recovers: true), frontend, means)
        _ = try attach(backend, means)
    }

    /// What an earlier process served may be more than is offered now, but not more queues than the TAP device has.
    private func negotiate(_ frontend: NodeValues, _ means: Means) throws(KeyRefusal) -> NetConnection {
        let connection = try NetConnection.negotiate(frontend, served)
        let (key, most) = ("multi-queue-num-queues", means.tap.queues.count)
        guard connection.queues.count <= most else { throw KeyRefusal(key, frontend[key], "must be 1...\(most)") }
        return connection
    }

    private func attach(_ backend: NodeValues, _ means: Means) throws(NetAttachmentFailure) -> [PublishedKey] {
        do throws(NetAttachmentFailure) {
            return try attachment.attach("\(identity)", means.tap.index, backend)
        } catch {
            // A guest that was served has been attached, unless somebody has taken that away meanwhile.
            guard journals.left > 0 else { throw error }
            log.error("\(error)")
            return []
        }
    }

    /// What the toolstack's nodes say may have become wrong since the guest was connected, which is no reason to lose it: as
    /// in a process that lives, the interface goes on as it was.
    private func settings(_ backend: NodeValues) throws(KeyRefusal) -> InterfaceSettings {
        do {
            vm = backend[DomainKeys.vm]?.text
            return try understood(backend)
        } catch {
            guard let kept = journals.settings(vm: backend[DomainKeys.vm]?.text) else { throw error }
            log.warning("the interface goes on as it was: \(error)")
            return try understood(kept)
        }
    }

    /// Remembers what the interface goes by.
    private func understood(_ nodes: NodeValues) throws(KeyRefusal) -> InterfaceSettings {
        let settings = try InterfaceSettings(nodes, filters: filters)
        follow(nodes.filter { InterfaceSettings.keys.contains($0.key) })
        return settings
    }

    private func follow(_ nodes: NodeValues) {
        guard followed != nodes else { return }
        followed = nodes
        attempt { () throws(Fault) in try journals.note(settings: nodes, vm: vm) }
    }

    /// What a connection is started with.
    private struct Start {
        let connection: NetConnection
        let settings: InterfaceSettings
        let journals: NetJournals.Set
        /// They are an earlier process's.
        let recovers: Bool

        init(
            _ connection: NetConnection, _ settings: InterfaceSettings, _ journals: NetJournals.Set, recovers: Bool
        ) {
            self.connection = connection
            self.settings = settings
            self.journals = journals
            self.recovers = recovers
        }
    }

    private func start(_ start: Start, _ frontend: NodeValues, _ means: Means) throws {
        let tap = means.tap
        policy = try SharedReceivePolicy(
            keeping: start.journals.policy, queues: start.connection.queues.count)
        // What the guest says now, before the first frame.
        if let live = try? LiveSettings(frontend) { follow(live) }
        try setMTU(start.settings, start.connection, tap)
        limit.set(start.settings.rate)
        try tap.attach(queues: start.connection.queues.count)
        connection = start.connection
        // First, for the host sends nothing before it has noticed, not even answers.
        try tap.setCarrier(true)
        try startThreads(start, means)
        conditions = currentConditions.map { _ in .running }
        log.info("\(start.recovers ? "served on: " : "")\(tap.name): \(summary(start.connection))")
    }

    /// What fails here is mostly what the guest says of its rings, and nothing that a script or a host's owner could mend.
    private func startThreads(_ start: Start, _ means: Means) throws(RingFailure) {
        do throws(Fault) {
            for index in start.connection.queues.indices { try startQueue(index, start, means) }
            try startControl(start, means)
        } catch {
            throw RingFailure(description: "\(error)")
        }
    }

    private func startQueue(_ index: Int, _ start: Start, _ means: Means) throws(Fault) {
        let (connection, settings) = (start.connection, start.settings)
        queues.append(
            try NetQueueThread(
                NetQueueConfiguration(
                    name: "\(identity).\(index)", domain: identity.deviceClass.frontend,
                    backend: identity.deviceClass.backend, rings: connection.queues[index],
                    offloads: connection.offloads, scatters: connection.scatters,
                    notifiesReceive: connection.notifiesReceive, filter: settings.filter, limit: limit,
                    policy: policy, journal: start.journals.queues[index], recovers: start.recovers),
                platform: platform, tap: means.tap.queues[index].number,
                attention: means.attention.number))
    }

    /// A guest without scatter-gather takes one page at a time, and no more than Ethernet's usual packets.
    private func setMTU(_ settings: InterfaceSettings, _ connection: NetConnection, _ tap: TapDevice) throws(Fault) {
        guard let mtu = settings.mtu else { return }
        try tap.setMTU(connection.scatters ? mtu : min(mtu, 1500))
    }

    private func startControl(_ start: Start, _ means: Means) throws(Fault) {
        guard let rings = start.connection.control else { return }
        let follow = steering(means.tap, start.connection.queues.count)
        // An earlier process may have ended between what it wrote down and what it did.
        if start.recovers { follow() }
        control = try ControlThread(
            name: "\(identity).ctrl", rings, of: identity.deviceClass.frontend, policy: policy, platform: platform,
            attention: means.attention.number, recovers: start.recovers, follow: follow)
    }

    /// What has the kernel steer as the guest has set it; without the right to do so packets carry their hashes, and come
    /// where the kernel puts them: a guest must take packets on any queue (netif.h).
    private func steering(_ tap: TapDevice, _ queues: Int) -> @Sendable () -> Void {
        guard queues > 1 else { return {} }
        do throws(Fault) {
            let steering = try HashSteering(of: tap)
            return { [policy, log] in
                do throws(Fault) {
                    if let table = policy.current.hash.steeringTable {
                        try steering.set(table)
                    } else {
                        try tap.resetSteering()
                    }
                } catch {
                    log.warning("\(error)")
                }
            }
        } catch {
            log.notice("\(error): a guest's wishes for its queues are not followed")
            return {}
        }
    }

    public func update(_ keys: LiveKeys) throws(DeviceFailure) {
        follow(rate: keys.backend)
        do throws(KeyRefusal) {
            // The multicast list may be changed whether or not it is applied (netif.h).
            follow(try LiveSettings(keys.frontend))
        } catch {
            throw DeviceFailure("\(error)")
        }
    }

    private func follow(_ settings: LiveSettings) {
        policy.change {
            $0.filtersGroups = settings.filtersMulticast
            $0.headroom = settings.headroom
        }
    }

    /// A limit that does not say what it means changes nothing.
    private func follow(rate keys: NodeValues) {
        do throws(KeyRefusal) {
            limit.set(try InterfaceSettings.rate(keys))
            for queue in queues { queue.noteRate() }
        } catch {
            return log.warning("the rate limit stays as it is: \(error)")
        }
        var nodes = followed ?? [:]
        nodes["rate"] = keys["rate"]
        follow(nodes)
    }

    private func summary(_ connection: NetConnection) -> String {
        let split = connection.queues[0].isSplit ? "two event channels" : "one event channel"
        return "\(connection.queues.count) queues with \(split) each, \(connection.scatters ? "" : "no ")scatter-gather"
    }

    public func suspend() { stopQueues() }

    public func disconnect() {
        stopQueues()
        connection = nil
        served = offer
        guard case .success(let means) = means else { return }
        removeJournals()
        attempt { () throws(Fault) in try means.tap.setCarrier(false) }
        attempt { () throws(Fault) in try means.tap.resetSteering() }
    }

    private func removeJournals() {
        followed = nil
        attempt { () throws(Fault) in try journals.remove() }
    }

    private func stopQueues() {
        for queue in queues { queue.stop() }
        queues = []
        control?.stop()
        control = nil
    }

    public func closeVolume() {
        served = offer
        attempt { () throws(Fault) in try attachment.detach("\(identity)") }
        // Also of a connection that ended while nobody served it.
        removeJournals()
        guard case .success(let means) = means else { return }
        attempt { () throws(Fault) in try means.tap.setCarrier(false) }
    }

    public var isPeerAlive: Bool {
        guard let rings = connection?.queues.first else { return false }
        do throws(Fault) {
            let table = try platform.openGrantTable()
            let page = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
            defer { unsafe page.deallocate() }
            // The page and the segment live for the call; eight bytes fit.
            var segment = unsafe xen_grant_copy_segment.fromGuest(
                identity.deviceClass.frontend, rings.transmit, offset: 0, length: 8, to: page)
            return unsafe table.copy(&segment, count: 1, .fromGuest) == 0
        } catch {
            return false
        }
    }

    // MARK: news

    public var attention: Int32 {
        guard !queues.isEmpty, case .success(let means) = means else { return -1 }
        return means.attention.number
    }

    public func attend() -> [DeviceNews] {
        if case .success(let means) = means { means.attention.take() }
        let (now, before) = (currentConditions, conditions)
        conditions = now
        let failures: [DeviceNews] = zip(now, before).enumerated().compactMap { index, pair in
            guard pair.0 != pair.1 else { return nil }
            switch pair.0 {
            case .running, .stalled: return nil
            case .violated(let violation):
                return failed("\(ring(index)): the frontend broke a rule: \(violation)")
            case .failed(let fault): return failed("\(ring(index)): \(fault)")
            }
        }
        return failures + carrierNews(isStalled: now.contains(.stalled), wasStalled: before.contains(.stalled))
    }

    private func failed(_ reason: String) -> DeviceNews {
        .failed(DeviceFailure(reason, keys: [PublishedKey("carrier", 0)]))
    }

    /// Where one queue is not read, the interface loses its carrier until all are.
    private func carrierNews(isStalled: Bool, wasStalled: Bool) -> [DeviceNews] {
        guard isStalled != wasStalled, case .success(let means) = means else { return [] }
        do throws(Fault) { try means.tap.setCarrier(!isStalled) } catch { log.warning("\(error)") }
        log.warning(
            isStalled ? "the guest reads no frames: the carrier is off" : "the guest reads again: the carrier is on")
        return [.changed([PublishedKey("carrier", isStalled ? 0 : 1)])]
    }

    /// Of the queues, and of the control ring behind them.
    private var currentConditions: [NetCondition] {
        queues.map(\.condition) + (control.map { [$0.condition] } ?? [])
    }

    private func ring(_ index: Int) -> String { index < queues.count ? "queue \(index)" : "control ring" }

    /// A TAP device that cannot be made fails the interface before any frontend comes.
    public var recordedFailure: String? {
        if case .failure(let fault) = means { "\(fault)" } else { nil }
    }

    public func forgetFailure() {}

    /// For the status file.
    public var status: JSON? {
        guard let connection, case .success(let means) = means else { return nil }
        let tap = means.tap
        return [
            "interface": .string(tap.name), "index": .number(UInt64(tap.index)),
            "scatter_gather": .flag(connection.scatters),
            "control": .object(
                ControlCounter.allCases.map { counter in
                    .init("\(counter)", .number(control?.cells.load(counter.rawValue) ?? 0))
                }),
            "queues": .array(
                queues.map { queue in
                    .object(
                        NetCounter.allCases.map { .init("\($0)", .number(queue[$0])) }
                            + FilterReason.allCases.map { .init("\($0)", .number(queue.cells[$0])) }
                            + NetViolation.allCases.filter { queue.cells[$0] > 0 }
                            .map { .init("\($0)", .number(queue.cells[$0])) })
                }),
        ]
    }
}

/// Why a connection's rings are not served.
private struct RingFailure: Error, CustomStringConvertible {
    let description: String
}
