internal import XenWire
internal import Xenstore

/// Devices' nodes in xenstore: reading what is there and writing what we say, without ever bringing a removed directory
/// back.
///
/// Several devices are read or written together: waiting for the server costs the same for forty disks as for one, and
/// libxl gives all of them the same ten seconds.
struct DeviceNodes {
    let client: XenstoreClient

    /// Some nodes of one directory.
    private typealias Selection = (directory: XenstorePath, names: [String])

    /// Everything that the life cycle depends on, of all devices as it was at one moment; in the devices' order.
    func observe(_ subjects: [(identity: DeviceIdentity, device: any SplitDevice)]) throws(XenstoreError)
        -> [Observation]
    {
        try client.transaction { store throws(XenstoreError) in
            let backends = try read(
                store,
                subjects.map {
                    (
                        $0.identity.backendPath,
                        ["state", "online", "hotplug-status", "script"] + $0.device.liveBackendKeys
                    )
                })
            let frontends = try readFrontends(store, subjects.map { ($0.identity.frontendPath, ["state"]) })
            let states = frontends.map { $0["state"].map { XenbusState(text: $0.text ?? "") } }
            let ready = zip(subjects, states).map { isReady($1, $0.device) ? $0.device : nil }
            let keys = try frontendKeys(store, zip(subjects, ready).map { ($0.identity.frontendPath, $1) })
            let live = try readFrontends(
                store, zip(subjects, ready).map { ($0.identity.frontendPath, $1?.liveFrontendKeys ?? []) })
            return subjects.indices.map {
                Observation(
                    backends[$0], frontend: states[$0], keys[$0],
                    live: liveKeys(of: subjects[$0].device, backends[$0], live[$0]))
            }
        }
    }

    private func liveKeys(of device: any SplitDevice, _ own: NodeValues, _ frontend: NodeValues) -> LiveKeys? {
        guard !device.liveBackendKeys.isEmpty || !device.liveFrontendKeys.isEmpty else { return nil }
        return LiveKeys(backend: own.filter { device.liveBackendKeys.contains($0.key) }, frontend: frontend)
    }

    /// The frontend has described its rings.
    private func isReady(_ frontend: XenbusState?, _ device: any SplitDevice) -> Bool {
        switch frontend {
        case .initialised, .connected: true
        case .reconfiguring: !device.liveFrontendKeys.isEmpty
        default: false
        }
    }

    /// What frontends say about their rings; nothing where no device asks.
    private func frontendKeys(
        _ store: XenstoreTransaction, _ frontends: [(path: XenstorePath, device: (any SplitDevice)?)]
    ) throws(XenstoreError) -> [NodeValues] {
        let first = try readFrontends(store, frontends.map { ($0.path, $0.device?.frontendKeys ?? []) })
        let names = zip(frontends, first).map { ($0.path, $0.device?.frontendKeys(after: $1) ?? []) }
        return zip(first, try readFrontends(store, names)).map { $0.merging($1) { known, _ in known } }
    }

    /// Nodes of the backend's own directory.
    func backendKeys(_ identity: DeviceIdentity, _ names: [String]) throws(XenstoreError) -> NodeValues {
        try read(client, [(identity.backendPath, names)]).first ?? [:]
    }

    /// What is known of the frontend's domain; nothing where that is not ours to read, as in a driver domain.
    func domainKeys(_ identity: DeviceIdentity) throws(XenstoreError) -> NodeValues {
        let home = XenstorePath.domain(identity.deviceClass.frontend.rawValue)
        let found = try readFrontends(client, [(home, ["vm"])]).first ?? [:]
        return found["vm"].map { [DomainKeys.vm: $0] } ?? [:]
    }

    /// The rule that the two ends belong together: `frontend` and `frontend-id` must say what our own path says.
    func checkFrontend(_ identity: DeviceIdentity) throws(XenstoreError) -> DeviceFailure? {
        let keys = try backendKeys(identity, ["frontend", "frontend-id"])
        let expected = [
            "frontend": identity.frontendPath.description,
            "frontend-id": identity.deviceClass.frontend.description,
        ]
        for (name, value) in expected.sorted(by: { $0.key < $1.key }) where keys[name]?.text != value {
            let found = keys[name].map { "'\($0)'" } ?? "missing"
            return DeviceFailure("\(name) \(found): must be \(value)")
        }
        return nil
    }

    /// Writes all publications, all or nothing, but those of devices that exist no more; true for each that was written.
    func publish(_ publications: [(identity: DeviceIdentity, content: Publication)]) throws(XenstoreError) -> [Bool] {
        var paths: [XenstorePath] = []
        for (identity, _) in publications { paths.append(try identity.backendPath.appending("state")) }
        return try client.transaction { store throws(XenstoreError) in
            let states = try store.readAll(paths)
            var edits: [XenstoreEdit] = []
            for ((identity, content), state) in zip(publications, states) {
                guard let state else { continue }
                edits += try content.edits(in: identity.backendPath, now: state)
            }
            if edits.isEmpty { store.abort() } else { try store.apply(edits) }
            return states.map { $0 != nil }
        }
    }

    /// A guest owns its nodes and may take our permission to read them: then they say nothing, like missing ones, and the
    /// device can be removed all the same.
    private func readFrontends(
        _ store: some XenstoreAccess, _ selections: [Selection]
    ) throws(XenstoreError) -> [NodeValues] {
        do throws(XenstoreError) {
            return try read(store, selections)
        } catch {
            guard error.name == .accessDenied else { throw error }
            guard selections.count > 1 else { return [[:]] }
            var values: [NodeValues] = []
            for selection in selections { values += try readFrontends(store, [selection]) }
            return values
        }
    }

    private func read(
        _ store: some XenstoreAccess, _ selections: [Selection]
    ) throws(XenstoreError) -> [NodeValues] {
        var paths: [XenstorePath] = []
        for (directory, names) in selections {
            for name in names { paths.append(try directory.appending(name)) }
        }
        var values = try store.readAll(paths)[...]
        return selections.map { selection in
            defer { values = values.dropFirst(selection.names.count) }
            return NodeValues(zip(selection.names, values).compactMap { name, value in value.map { (name, $0) } }) {
                $1
            }
        }
    }
}

extension Observation {
    fileprivate init(
        _ own: NodeValues, frontend: XenbusState?, _ frontendKeys: NodeValues, live: LiveKeys?
    ) {
        self.init(
            backend: own["state"].map { XenbusState(text: $0.text ?? "") },
            // Only an explicit 0 lets a device go; toolstacks that do not know the node mean 1.
            isOnline: own["online"]?.flag ?? true,
            hotplug: HotplugStatus(text: own["hotplug-status"].map { $0.text ?? "" }),
            hasScript: own["script"] != nil,
            frontend: frontend,
            frontendKeys: frontendKeys, liveKeys: live)
    }
}
