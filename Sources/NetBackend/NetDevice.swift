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

/// One virtual network interface: a TAP device that the toolstack's scripts attach, and queues between it and the guest
/// while a frontend is connected. Used from the control thread only.
public final class NetDevice: SplitDevice {
    private let identity: DeviceIdentity
    private let offer: NetOffer
    private let filters: Bool
    private let attachment: NetAttachment
    private let platform: any RingPlatform
    private let means: Result<Means, Fault>
    private let log: Logger
    private var connection: NetConnection?
    private var queues: [NetQueueThread] = []
    private var control: ControlThread?
    private var policy = SharedReceivePolicy()
    private var conditions: [NetCondition] = []
    private var isSuspended = false
    private let limit = RateLimit()

    /// Makes the TAP device, down: it must be there before the toolstack's script is told of the interface (state 2), and
    /// the script sets it up. It outlives the process, as long as the interface does.
    ///
    /// - Parameters:
    ///   - filters: interfaces send only what is their guest's own, unless their node `filter` says otherwise.
    ///   - attachment: how interfaces without a script are attached.
    public init(
        _ identity: DeviceIdentity, _ offer: NetOffer, filters: Bool, attachment: NetAttachment,
        platform: any RingPlatform, log: Logger
    ) {
        self.identity = identity
        self.offer = offer
        self.filters = filters
        self.attachment = attachment
        self.platform = platform
        var log = log
        log[metadataKey: "device"] = "\(identity)"
        self.log = log
        means = Result { () throws(Fault) in try Means(identity, offer) }
    }

    /// What an interface needs whether or not a frontend is there.
    private struct Means {
        let tap: TapDevice
        let attention: Attention

        init(_ identity: DeviceIdentity, _ offer: NetOffer) throws(Fault) {
            attention = try Attention()
            tap = try TapDevice("vif\(identity.deviceClass.frontend).\(identity.number)", queues: offer.queues)
            try tap.setPersistent(true)
            // What the guest does not take is done here.
            try tap.setOffloads([.checksum, .segmentationV4, .segmentationV6])
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

    deinit {
        guard !isSuspended, case .success(let means) = means else { return }
        do throws(Fault) { try means.tap.setPersistent(false) } catch { log.warning("\(error)") }
    }

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

    public func frontendKeys(after known: NodeValues) -> [String] { NetConnection.ringKeys(after: known, offer) }

    // MARK: life

    public func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        try connect(frontend, backend, isFresh: true)
    }

    /// - Parameter isFresh: no earlier process has served these rings.
    private func connect(
        _ frontend: NodeValues, _ backend: NodeValues, isFresh: Bool
    ) throws(DeviceFailure) -> [PublishedKey] {
        do {
            let means = try means.get()
            let tap = means.tap
            let settings = try InterfaceSettings(backend, filters: filters)
            let connection = try NetConnection.negotiate(frontend, offer)
            let hotplug = try attachment.attach("\(identity)", tap.index, backend)
            try setMTU(settings, connection, tap)
            limit.set(settings.rate)
            try tap.attach(queues: connection.queues.count)
            self.connection = connection
            policy = SharedReceivePolicy(queues: connection.queues.count, knowsGroups: isFresh)
            // First, for the host sends nothing before it has noticed, not even answers.
            try tap.setCarrier(true)
            // What an earlier process has set stays as long as the connection.
            if isFresh { try tap.resetSteering() }
            try start(connection, settings, means)
            conditions = currentConditions.map { _ in .running }
            log.info("\(tap.name): \(summary(connection))")
            return [PublishedKey("carrier", 1)] + hotplug
        } catch {
            disconnect()
            throw DeviceFailure("\(error)", keys: NetAttachment.keys(after: error))
        }
    }

    /// What fails here is mostly what the guest says of its rings, and nothing that a script or a host's owner could mend.
    private func start(
        _ connection: NetConnection, _ settings: InterfaceSettings, _ means: Means
    ) throws(RingFailure) {
        do throws(Fault) {
            for index in connection.queues.indices { try start(index, connection, settings, means) }
            try startControl(connection, means)
        } catch {
            throw RingFailure(description: "\(error)")
        }
    }

    private func start(_ index: Int, _ connection: NetConnection, _ settings: InterfaceSettings, _ means: Means)
        throws(Fault)
    {
        queues.append(
            try NetQueueThread(
                NetQueueConfiguration(
                    name: "\(identity).\(index)", domain: identity.deviceClass.frontend,
                    backend: identity.deviceClass.backend, rings: connection.queues[index],
                    offloads: connection.offloads, scatters: connection.scatters,
                    notifiesReceive: connection.notifiesReceive, filter: settings.filter, limit: limit,
                    policy: policy),
                platform: platform, tap: means.tap.queues[index].number,
                attention: means.attention.number))
    }

    /// A guest without scatter-gather takes one page at a time, and no more than Ethernet's usual packets.
    private func setMTU(_ settings: InterfaceSettings, _ connection: NetConnection, _ tap: TapDevice) throws(Fault) {
        guard let mtu = settings.mtu else { return }
        try tap.setMTU(connection.scatters ? mtu : min(mtu, 1500))
    }

    private func startControl(_ connection: NetConnection, _ means: Means) throws(Fault) {
        guard let rings = connection.control else { return }
        control = try ControlThread(
            name: "\(identity).ctrl", rings, of: identity.deviceClass.frontend, policy: policy, platform: platform,
            attention: means.attention.number, follow: steering(means.tap, connection.queues.count))
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
            let settings = try LiveSettings(keys.frontend)
            policy.change {
                $0.filtersGroups = settings.filtersMulticast
                $0.headroom = settings.headroom
            }
        } catch {
            throw DeviceFailure("\(error)")
        }
    }

    /// A limit that does not say what it means changes nothing.
    private func follow(rate keys: NodeValues) {
        do throws(KeyRefusal) {
            limit.set(try InterfaceSettings.rate(keys))
            for queue in queues { queue.noteRate() }
        } catch {
            log.warning("the rate limit stays as it is: \(error)")
        }
    }

    private func summary(_ connection: NetConnection) -> String {
        let split = connection.queues[0].isSplit ? "two event channels" : "one event channel"
        return "\(connection.queues.count) queues with \(split) each, \(connection.scatters ? "" : "no ")scatter-gather"
    }

    /// Responses are in order and never outstanding between two turns: rings say all there is to know, but for what a guest
    /// has set earlier. Without its multicast list it gets all groups; without its hash settings, no hashes.
    public func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        try connect(frontend, backend, isFresh: false)
    }

    public func suspend() {
        isSuspended = true
        stopQueues()
    }

    public func disconnect() {
        stopQueues()
        connection = nil
        guard case .success(let means) = means else { return }
        do throws(Fault) {
            try means.tap.setCarrier(false)
            try means.tap.resetSteering()
        } catch {
            log.warning("\(error)")
        }
    }

    private func stopQueues() {
        for queue in queues { queue.stop() }
        queues = []
        control?.stop()
        control = nil
    }

    public func closeVolume() {
        do throws(Fault) { try attachment.detach("\(identity)") } catch { log.warning("\(error)") }
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
