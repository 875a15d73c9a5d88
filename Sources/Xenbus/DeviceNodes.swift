internal import XenWire
internal import Xenstore

/// A device's nodes in xenstore: reading what is there and writing what we say, without ever bringing a removed
/// directory back.
struct DeviceNodes {
    let client: XenstoreClient
    let identity: DeviceIdentity

    /// Everything that the life cycle depends on, as it was at one moment.
    func observe(for device: any SplitDevice) throws(XenstoreError) -> Observation {
        try client.transaction { store throws(XenstoreError) in
            let own = try read(store, identity.backendPath, ["state", "online", "hotplug-status", "script"])
            let frontend = try readFrontend(store, ["state"])["state"]
            let state = frontend.map { XenbusState(text: $0.text ?? "") }
            let isReady = state == .initialised || state == .connected
            return Observation(
                backend: own["state"].map { XenbusState(text: $0.text ?? "") },
                // Only an explicit 0 lets a device go; toolstacks that do not know the node mean 1.
                isOnline: own["online"]?.flag ?? true,
                hotplug: HotplugStatus(text: own["hotplug-status"].map { $0.text ?? "" }),
                hasScript: own["script"] != nil,
                frontend: state,
                frontendKeys: isReady ? try frontendKeys(store, device) : [:])
        }
    }

    private func frontendKeys(
        _ store: XenstoreTransaction, _ device: any SplitDevice
    ) throws(XenstoreError) -> NodeValues {
        var keys = try readFrontend(store, device.frontendKeys)
        let more = try readFrontend(store, device.frontendKeys(after: keys))
        keys.merge(more) { first, _ in first }
        return keys
    }

    /// Nodes of the backend's own directory.
    func backendKeys(_ names: [String]) throws(XenstoreError) -> NodeValues {
        try read(client, identity.backendPath, names)
    }

    /// The rule that the two ends belong together: `frontend` and `frontend-id` must say what our own path says.
    func checkFrontend() throws(XenstoreError) -> DeviceFailure? {
        let keys = try backendKeys(["frontend", "frontend-id"])
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

    /// Writes keys and perhaps the state, all or nothing, if the device still exists; false if it does not.
    ///
    /// - Parameter touching: write the state even if it is the same: frontends look at the keys again then.
    func publish(
        _ keys: [PublishedKey], state: XenbusState? = nil, touching: Bool = false, removing: String? = nil
    ) throws(XenstoreError) -> Bool {
        try client.transaction { store throws(XenstoreError) in
            guard let now = try store.read(identity.backendPath.appending("state")) else {
                store.abort()
                return false
            }
            for key in keys { try store.write(identity.backendPath.appending(key.name), key.value) }
            if let removing { try store.remove(identity.backendPath.appending(removing)) }
            if let state, touching || now.text != state.text {
                try store.write(identity.backendPath.appending("state"), state.text)
            }
            return true
        }
    }

    /// The guest owns its nodes and may take our permission to read them: then they say nothing, like missing ones, and
    /// the device can be removed all the same.
    private func readFrontend(
        _ store: XenstoreTransaction, _ names: [String]
    ) throws(XenstoreError) -> NodeValues {
        do throws(XenstoreError) {
            return try read(store, identity.frontendPath, names)
        } catch {
            guard error.name == .accessDenied else { throw error }
            return [:]
        }
    }

    private func read(
        _ store: some XenstoreAccess, _ directory: XenstorePath, _ names: [String]
    ) throws(XenstoreError) -> NodeValues {
        var paths: [XenstorePath] = []
        for name in names { paths.append(try directory.appending(name)) }
        var keys: NodeValues = [:]
        for (name, value) in zip(names, try store.readAll(paths)) { keys[name] = value }
        return keys
    }
}
