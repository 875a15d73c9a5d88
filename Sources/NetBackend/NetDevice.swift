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
    private var conditions: [NetCondition] = []
    private var isSuspended = false

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
    public var frontendKeys: [String] { NetConnection.fixedKeys }
    public var transportKeys: [PublishedKey] {
        guard case .failure(let fault) = means else { return offer.transportKeys }
        // The script is going to miss the TAP device, and will not know why.
        return offer.transportKeys + [PublishedKey("hotplug-error", "\(fault)")]
    }

    public func frontendKeys(after known: NodeValues) -> [String] { NetConnection.ringKeys(after: known, offer) }

    // MARK: life

    public func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        do {
            let means = try means.get()
            let tap = means.tap
            let settings = try InterfaceSettings(backend, filters: filters)
            let connection = try NetConnection.negotiate(frontend, offer)
            let hotplug = try attachment.attach("\(identity)", tap.index, backend)
            try tap.attach(queues: connection.queues.count)
            self.connection = connection
            for index in connection.queues.indices { try start(index, connection, settings, means) }
            conditions = queues.map { _ in .running }
            try tap.setCarrier(true)
            log.info("\(tap.name): \(summary(connection))")
            return [PublishedKey("carrier", 1)] + hotplug
        } catch {
            disconnect()
            throw DeviceFailure("\(error)", keys: NetAttachment.keys(after: error))
        }
    }

    private func start(_ index: Int, _ connection: NetConnection, _ settings: InterfaceSettings, _ means: Means)
        throws(Fault)
    {
        queues.append(
            try NetQueueThread(
                NetQueueConfiguration(
                    name: "\(identity).\(index)", domain: identity.deviceClass.frontend,
                    rings: connection.queues[index], offloads: connection.offloads, scatters: connection.scatters,
                    notifiesReceive: connection.notifiesReceive, filter: settings.filter),
                platform: platform, tap: means.tap.queues[index].number,
                attention: means.attention.number))
    }

    private func summary(_ connection: NetConnection) -> String {
        let split = connection.queues[0].isSplit ? "two event channels" : "one event channel"
        return "\(connection.queues.count) queues with \(split) each, \(connection.scatters ? "" : "no ")scatter-gather"
    }

    /// Responses are in order and never outstanding between two turns: rings say all there is to know.
    public func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        try connect(frontend: frontend, backend: backend)
    }

    public func suspend() {
        isSuspended = true
        stopQueues()
    }

    public func disconnect() {
        stopQueues()
        connection = nil
        guard case .success(let means) = means else { return }
        do throws(Fault) { try means.tap.setCarrier(false) } catch { log.warning("\(error)") }
    }

    private func stopQueues() {
        for queue in queues { queue.stop() }
        queues = []
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
        let now = queues.map(\.condition)
        defer { conditions = now }
        return zip(now, conditions).enumerated().compactMap { index, pair in
            guard pair.0 != pair.1 else { return nil }
            switch pair.0 {
            case .running: return nil
            case .violated(let violation):
                return .failed(DeviceFailure("queue \(index): the frontend broke a rule: \(violation)"))
            case .failed(let fault): return .failed(DeviceFailure("queue \(index): \(fault)"))
            }
        }
    }

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
            "queues": .array(
                queues.map { queue in
                    .object(
                        NetCounter.allCases.map { .init("\($0)", .number(queue[$0])) }
                            + FilterReason.allCases.map { .init("\($0)", .number(queue.cells[$0])) })
                }),
        ]
    }
}
