public import Logging
internal import XenWire
public import Xenstore

/// Keeps one domain's devices of some classes in step with xenstore: observes, lets the life cycle decide, applies the
/// effects. Used from the control thread only.
public final class XenbusDriver {
    private let client: XenstoreClient
    private let nodes: DeviceNodes
    private let makeDevice: (DeviceIdentity) -> any SplitDevice
    private let holder: (DeviceIdentity) -> String?
    private let log: Logger

    private let directories: [ClassDirectory]
    private var devices: [DeviceIdentity: ServedDevice] = [:]
    /// Devices to be looked at (again).
    private var pending: Set<DeviceIdentity> = []
    /// Devices for which xenstore refused something.
    private var refused: Set<DeviceIdentity> = []
    /// Connected devices that were not seen in the store since it was lost.
    private var unseen: Set<DeviceIdentity> = []
    /// Devices that somebody else serves.
    private var foreign: Set<DeviceIdentity> = []
    private var isRescanPending = true

    /// A device has appeared, whoever serves it.
    private var hasSeen = false

    /// Where the devices of one class appear.
    private struct ClassDirectory {
        let deviceClass: DeviceClass
        let path: XenstorePath
        let watch: XenstoreWatch
    }

    /// A device, what is known of it, and the watches on its frontend's state and live keys.
    private struct ServedDevice {
        let identity: DeviceIdentity
        let device: any SplitDevice
        var frontendWatches: [XenstoreWatch] = []
        var state: DeviceState
    }

    /// Starts to watch; the first `process` looks at what is there.
    ///
    /// - Parameters:
    ///   - holder: who else serves a device, and what an administrator can do about it; nil if nobody does. Such a
    ///     device is left alone: two backends on one device would break both.
    ///   - makeDevice: called for every device that appears.
    public init(
        _ client: XenstoreClient, _ classes: [DeviceClass], log: Logger,
        holder: @escaping (DeviceIdentity) -> String? = { _ in nil },
        makeDevice: @escaping (DeviceIdentity) -> any SplitDevice
    ) throws(XenstoreError) {
        self.client = client
        nodes = DeviceNodes(client: client)
        self.makeDevice = makeDevice
        self.holder = holder
        self.log = log
        var directories: [ClassDirectory] = []
        for deviceClass in classes {
            let path = try deviceClass.directory()
            directories.append(.init(deviceClass: deviceClass, path: path, watch: try client.watch(path)))
        }
        self.directories = directories
    }

    /// There were devices, and none is left that is this process's to serve.
    public var isFinished: Bool { hasSeen && devices.isEmpty }

    /// There has been no device yet.
    public var isUnused: Bool { !hasSeen }

    /// The devices that are served, in the order of their numbers.
    public var served: [(identity: DeviceIdentity, device: any SplitDevice, state: DeviceState)] {
        devices.sorted { $0.key < $1.key }.map { ($0.key, $0.value.device, $0.value.state) }
    }

    /// There is something to do: call `process` before sleeping.
    public var hasWork: Bool { isRescanPending || !pending.isEmpty || client.hasPendingEvents }

    /// The store was lost and found again, and perhaps it is another one: a xenstored that was started anew knows nothing
    /// of the domains that are running. A device that is missing there is served on while its guest lives.
    public func noteReconnection() {
        unseen = Set(devices.filter { $0.value.state.isConnected }.keys)
        if !unseen.isEmpty { log.notice("xenstore is back") }
    }

    /// Does what there is to do now. What xenstore refused is tried again by the next call; the bound keeps a store that
    /// changes all the time from keeping the caller.
    public func process() throws(XenstoreError) {
        // Nobody announces the end of a guest that the store does not know.
        pending.formUnion(refused.union(unseen))
        refused = []
        noteEvents()
        for _ in 0..<16 where hasWork {
            if isRescanPending { try rescan() }
            try reconcilePending()
            noteEvents()
        }
    }

    /// Lets the devices speak: failed queues, resized volumes.
    public func attend() throws(XenstoreError) {
        for (identity, served) in devices.sorted(by: { $0.key < $1.key }) {
            for news in served.device.attend() { try handle(news, identity) }
        }
    }

    /// Looks once more for devices that are there to be served, after `isFinished` or `isUnused`.
    public func findsDevice() throws(XenstoreError) -> Bool {
        for identity in try listed() where !foreign.contains(identity) {
            if try isPresent(identity) { return true }
        }
        return false
    }

    /// Stops all queues and writes nothing: the next process finds the devices as they are now.
    public func suspend() {
        for served in devices.values where served.state.isConnected { served.device.suspend() }
        devices = [:]
    }

    // MARK: what has happened

    /// Watches are only hints to read again; however many events there were, each device is looked at once.
    private func noteEvents() {
        for change in client.pendingChanges() {
            if let directory = directories.first(where: { $0.watch == change.watch }) {
                note(change.children, in: directory)
            } else if let (identity, _) = devices.first(where: { $0.value.frontendWatches.contains(change.watch) }) {
                pending.insert(identity)
            }
        }
    }

    /// Something in our own directories changed, which only the toolstack, the script and we ourselves write. What is
    /// served is looked at, and nothing else: a domain may have many disks, all of which start at the same time.
    private func note(_ children: Set<String>?, in directory: ClassDirectory) {
        let changed = devices.keys.filter { identity in
            identity.deviceClass == directory.deviceClass && children?.contains(String(identity.number)) ?? true
        }
        pending.formUnion(changed)
        if children.map({ $0.count > changed.count }) ?? true { isRescanPending = true }
    }

    /// Looks for devices that are new.
    private func rescan() throws(XenstoreError) {
        isRescanPending = false
        let listed = try listed()
        foreign.formIntersection(listed)
        for identity in listed where devices[identity] == nil && !foreign.contains(identity) {
            try addIfPresent(identity)
        }
    }

    /// What lies in our directories now.
    private func listed() throws(XenstoreError) -> [DeviceIdentity] {
        var identities: [DeviceIdentity] = []
        for directory in directories {
            for name in try client.directory(directory.path) ?? [] {
                guard let number = DeviceIdentity.number(from: name) else { continue }
                identities.append(try directory.deviceClass.device(number))
            }
        }
        return identities.sorted()
    }

    /// A directory without `state` is half made or half removed: no device yet, or no longer.
    private func isPresent(_ identity: DeviceIdentity) throws(XenstoreError) -> Bool {
        try client.read(identity.backendPath.appending("state")) != nil
    }

    private func addIfPresent(_ identity: DeviceIdentity) throws(XenstoreError) {
        guard try isPresent(identity) else { return }
        if let holder = holder(identity) { leave(identity, to: holder) } else { add(identity) }
    }

    /// Somebody else serves the device: nothing of it is touched.
    private func leave(_ identity: DeviceIdentity, to holder: String) {
        hasSeen = true
        foreign.insert(identity)
        log.error("not served: \(holder)", metadata: ["device": "\(identity)"])
    }

    private func add(_ identity: DeviceIdentity) {
        hasSeen = true
        pending.insert(identity)
        let device = makeDevice(identity)
        devices[identity] = ServedDevice(identity: identity, device: device, state: DeviceState())
        log.info("device appeared", metadata: ["device": "\(identity)"])
        if let reason = device.recordedFailure {
            devices[identity]?.state = Lifecycle.step(DeviceState(), .failed(reason, .device)).0
            log.error("not served, it failed earlier: \(reason)", metadata: ["device": "\(identity)"])
        }
    }

    /// Before the first look. What the server refuses is tried again with a later one: the device itself, which has taken
    /// what an earlier process left, can be made only once.
    private func watchFrontend(_ identity: DeviceIdentity) throws(XenstoreError) {
        guard let served = devices[identity] else { return }
        let keys = ["state"] + served.device.liveFrontendKeys
        for key in keys.dropFirst(served.frontendWatches.count) {
            devices[identity]?.frontendWatches.append(try client.watch(identity.frontendPath.appending(key)))
        }
    }

    private func handle(_ news: DeviceNews, _ identity: DeviceIdentity) throws(XenstoreError) {
        guard let served = devices[identity] else { return }
        switch news {
        case .failed(let failure):
            var publication = try advance(identity, .failed(failure.reason, failure.scope)) ?? Publication()
            // With what closes the device, or not at all.
            if publication.state != nil { publication.write(failure.keys) }
            try publish([(identity, publication)][...])
            pending.insert(identity)
        case .changed(let keys):
            guard let state = served.state.observation?.backend, served.state.isConnected else { return }
            // The state is what it is (a device may be closing); writing it again makes the frontend look.
            var publication = Publication()
            publication.write(keys)
            // What it had to wait for has come.
            publication.remove("error")
            publication.state = state
            publication.isTouching = true
            try publish([(identity, publication)][...])
        }
    }

    // MARK: all devices that are to be looked at

    /// How many are read or written at once: bounded, so that a transaction stays small.
    private static let batchSize = 16

    /// One step for each. Whose step did something is looked at again, without waiting for the watch.
    private func reconcilePending() throws(XenstoreError) {
        var identities = pending.sorted()[...]
        pending = []
        while !identities.isEmpty {
            try reconcile(identities.prefix(Self.batchSize))
            identities = identities.dropFirst(Self.batchSize)
        }
    }

    private func reconcile(_ identities: ArraySlice<DeviceIdentity>) throws(XenstoreError) {
        var ours: [DeviceIdentity] = []
        for identity in identities where try isStillOurs(identity) {
            try attempt(identity) { () throws(XenstoreError) in
                try watchFrontend(identity)
                ours.append(identity)
            }
        }
        var publications: [(identity: DeviceIdentity, content: Publication)] = []
        for (identity, now) in try observe(ours[...]) {
            try attempt(identity) { () throws(XenstoreError) in
                guard let publication = try reconcile(identity, now) else { return }
                pending.insert(identity)
                publications.append((identity, publication))
            }
        }
        try publish(publications.filter { !$0.content.isEmpty }[...])
    }

    /// A driver that was loaded late takes what is not connected yet.
    private func isStillOurs(_ identity: DeviceIdentity) throws(XenstoreError) -> Bool {
        guard let served = devices[identity] else { return false }
        guard !served.state.isConnected, let holder = holder(identity) else { return true }
        leave(identity, to: holder)
        try forget(identity)
        return false
    }

    /// Reads all together. What the server refuses is found by reading one by one: it must not keep the others.
    private func observe(
        _ identities: ArraySlice<DeviceIdentity>
    ) throws(XenstoreError) -> [(DeviceIdentity, Observation)] {
        let subjects = identities.compactMap { identity in devices[identity].map { (identity, $0.device) } }
        do throws(XenstoreError) {
            return Array(zip(identities, try nodes.observe(subjects)))
        } catch {
            guard client.isConnected else { throw error }
            guard identities.count > 1 else {
                for identity in identities { refuse(identity, error) }
                return []
            }
            var observations: [(DeviceIdentity, Observation)] = []
            for index in identities.indices { observations += try observe(identities[index...index]) }
            return observations
        }
    }

    /// Writes all together, or one by one as above.
    private func publish(
        _ publications: ArraySlice<(identity: DeviceIdentity, content: Publication)>
    ) throws(XenstoreError) {
        guard !publications.isEmpty else { return }
        do throws(XenstoreError) {
            for ((identity, content), isWritten) in zip(publications, try nodes.publish(Array(publications))) {
                // One whose directory has gone is found to be so by the next look.
                guard isWritten, let state = content.state, !content.isTouching else { continue }
                log.info("state \(state)", metadata: ["device": "\(identity)"])
            }
        } catch {
            guard client.isConnected else { throw error }
            guard publications.count > 1 else { return publications.forEach { refuse($0.identity, error) } }
            for index in publications.indices { try publish(publications[index...index]) }
        }
    }

    private func attempt(
        _ identity: DeviceIdentity, _ body: () throws(XenstoreError) -> Void
    ) throws(XenstoreError) {
        do throws(XenstoreError) {
            try body()
        } catch {
            guard client.isConnected else { throw error }
            refuse(identity, error)
        }
    }

    private func refuse(_ identity: DeviceIdentity, _ error: XenstoreError) {
        refused.insert(identity)
        log.warning("will be tried again: \(error)", metadata: ["device": "\(identity)"])
    }

    // MARK: one device

    /// One step after a look; nil if there was nothing to do.
    private func reconcile(_ identity: DeviceIdentity, _ now: Observation) throws(XenstoreError) -> Publication? {
        guard let served = devices[identity] else { return nil }
        if unseen.contains(identity), now.backend == nil, try isForgotten(served) { return nil }
        unseen.remove(identity)
        return try advance(identity, .observed(now))
    }

    /// The store knows nothing even of the domain, which is still there: it has lost its memory.
    private func isForgotten(_ served: ServedDevice) throws(XenstoreError) -> Bool {
        guard served.state.isConnected else { return false }
        let home = XenstorePath.domain(served.identity.deviceClass.frontend.rawValue)
        return try client.directory(home) == nil && served.device.isPeerAlive
    }

    /// One step of a device's life: does what is to be done and returns what is to be written; nil if there was nothing
    /// to do.
    private func advance(_ identity: DeviceIdentity, _ event: DeviceEvent) throws(XenstoreError) -> Publication? {
        guard let served = devices[identity] else { return nil }
        let (state, effects) = Lifecycle.step(served.state, event)
        devices[identity]?.state = state
        var work = Work()
        for effect in effects {
            log.debug("\(effect)", metadata: ["device": "\(identity)"])
            guard let failure = try applyOrUndo(effect, to: served, &work) else { continue }
            guard failure.scope != .attempt else { return postpone(served, failure) }
            let end = try advance(identity, .failed(failure.reason, failure.scope))
            work.publication.write(failure.keys)
            work.publication.append(end ?? Publication())
            return work.publication
        }
        if state.isForgotten { try forget(identity) }
        return effects.isEmpty ? nil : work.publication
    }

    /// Not looked at again at once, and nothing written that would have the same effect.
    private func postpone(_ served: ServedDevice, _ failure: DeviceFailure) -> Publication? {
        devices[served.identity]?.state = served.state.withoutQueues
        refused.insert(served.identity)
        log.warning("\(failure.reason)", metadata: ["device": "\(served.identity)"])
        return nil
    }

    /// What xenstore does not answer to is asked again: the step, whose queues are not there, is taken once more.
    private func applyOrUndo(
        _ effect: Effect, to served: ServedDevice, _ work: inout Work
    ) throws(XenstoreError) -> DeviceFailure? {
        do throws(XenstoreError) {
            return try apply(effect, to: served, &work)
        } catch {
            devices[served.identity]?.state = served.state.withoutQueues
            throw error
        }
    }

    /// What the effects of one step leave for the later ones.
    private struct Work {
        var publication = Publication()
        /// What `connect` returned, for `publishDeviceKeys`.
        var description: [PublishedKey] = []
    }

    private func apply(
        _ effect: Effect, to served: ServedDevice, _ work: inout Work
    ) throws(XenstoreError) -> DeviceFailure? {
        switch effect {
        case .publishTransportKeys:
            work.publication.write(served.device.transportKeys)
            work.publication.remove("error")
        case .publishDeviceKeys:
            // An earlier process may have waited for something. Who waits still says so again.
            work.publication.remove("error")
            work.publication.write(work.description)
        case .switchState(let state): work.publication.state = state
        case .publishError(let reason): work.publication.write([errorKey(served.identity, reason)])
        case .connect(let keys): return try connect(served, keys, adopting: false, &work)
        case .adopt(let keys): return try connect(served, keys, adopting: true, &work)
        case .update(let keys): return update(served.device, keys)
        case .disconnect: served.device.disconnect()
        case .suspend: served.device.suspend()
        case .closeVolume: served.device.closeVolume()
        case .absolve: served.device.forgetFailure()
        case .forget:
            served.device.forgetFailure()
            served.device.discard()
        }
        return nil
    }

    private func connect(
        _ served: ServedDevice, _ keys: NodeValues, adopting: Bool, _ work: inout Work
    ) throws(XenstoreError) -> DeviceFailure? {
        if let failure = try nodes.checkFrontend(served.identity) { return failure }
        // The live ones, too: what waits is served before they would come.
        let live = devices[served.identity]?.state.observation?.liveKeys?.frontend ?? [:]
        let keys = keys.merging(live) { own, _ in own }
        let backend = try nodes.backendKeys(served.identity, served.device.backendKeys)
            .merging(nodes.domainKeys(served.identity)) { own, _ in own }
        do throws(DeviceFailure) {
            work.description =
                adopting
                ? try served.device.adopt(frontend: keys, backend: backend)
                : try served.device.connect(frontend: keys, backend: backend)
            return nil
        } catch {
            return error
        }
    }

    private func update(_ device: any SplitDevice, _ keys: LiveKeys) -> DeviceFailure? {
        do throws(DeviceFailure) {
            try device.update(keys)
            return nil
        } catch {
            return error
        }
    }

    private func errorKey(_ identity: DeviceIdentity, _ reason: String) -> PublishedKey {
        log.error("\(reason)", metadata: ["device": "\(identity)"])
        // Values are bounded (2,048 bytes for oxenstored), and a reason must never be what keeps a device from closing.
        return PublishedKey("error", String(decoding: reason.utf8.prefix(512), as: UTF8.self))
    }

    private func forget(_ identity: DeviceIdentity) throws(XenstoreError) {
        guard let served = devices.removeValue(forKey: identity) else { return }
        log.info("device vanished", metadata: ["device": "\(identity)"])
        for watch in served.frontendWatches { try client.unwatch(watch) }
    }
}
