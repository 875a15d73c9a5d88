internal import Descriptors
internal import XenWire
internal import Xenbus
internal import Xenstore

/// What every frontend does with xenstore: it finds its backend, follows the backend's state and says its own.
final class FrontendBus {
    /// How long each of the backend's steps may take.
    static let milliseconds = 10_000

    let backend: DomainID
    let backendPath: XenstorePath
    private let xenstore: XenstoreClient
    private let path: XenstorePath
    private let patience: XenstorePatience
    private let watch: XenstoreWatch

    /// - Parameters:
    ///   - xenstore: the domain's own connection, used by this object only.
    ///   - path: the frontend's directory.
    init(_ xenstore: XenstoreClient, at path: XenstorePath, _ patience: XenstorePatience) throws(LoopbackError) {
        self.xenstore = xenstore
        self.path = path
        self.patience = patience
        (backendPath, backend) = try Self.findBackend(xenstore, path)
        watch = try Loopback.xenstore { [backendPath] () throws(XenstoreError) in
            try xenstore.watch(backendPath.appending("state"))
        }
    }

    private static func findBackend(
        _ xenstore: XenstoreClient, _ path: XenstorePath
    ) throws(LoopbackError) -> (XenstorePath, DomainID) {
        let found = try Loopback.xenstore { () throws(XenstoreError) -> (XenstorePath, DomainID)? in
            let values = try xenstore.readAll([path.appending("backend"), path.appending("backend-id")])
            guard let text = values[0]?.text, let number = values[1]?.unsigned(atMost: UInt64(UInt16.max)) else {
                return nil
            }
            return try (XenstorePath(text), DomainID(UInt16(truncatingIfNeeded: number)))
        }
        guard let found else { throw .badNode(path) }
        return found
    }

    /// Writes keys of the frontend's in one transaction.
    func write(_ keys: [(String, String)]) throws(LoopbackError) {
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.transaction { store throws(XenstoreError) in
                for (name, value) in keys { try store.write(path.appending(name), value) }
            }
        }
    }

    /// Says the frontend's state.
    func switchState(_ state: XenbusState) throws(LoopbackError) {
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.write(path.appending("state"), state.text)
        }
    }

    /// The backend's state now.
    func backendState() throws(LoopbackError) -> XenbusState {
        try Loopback.xenstore { () throws(XenstoreError) in try xenstore.state(backendPath.appending("state")) }
    }

    /// Waits until the backend is in one of `states`.
    func awaitBackend(_ states: [XenbusState]) throws(LoopbackError) {
        let gaveUp: [XenbusState] = states == [.connected] ? [.closing, .closed] : []
        let (reached, seen, reason, node) = try Loopback.xenstore { () throws(XenstoreError) in
            let node = try backendPath.appending("state")
            let reached = try patience.wait(xenstore, milliseconds: Self.milliseconds) { () throws(XenstoreError) in
                let state = try xenstore.state(node)
                return (states + gaveUp).contains(state) ? state : nil
            }
            return try (reached, xenstore.state(node), xenstore.read(backendPath.appending("error"))?.text, node)
        }
        guard let reached else { throw .noState(states[0], of: node, seen: seen, milliseconds: Self.milliseconds) }
        if gaveUp.contains(reached) { throw .backendClosed(backendPath, reason) }
    }

    /// Numbers among the backend's keys.
    func readNumbers(_ names: [String]) throws(LoopbackError) -> [UInt64?] {
        try Loopback.xenstore { () throws(XenstoreError) in
            var paths: [XenstorePath] = []
            for name in names { paths.append(try backendPath.appending(name)) }
            return try xenstore.readAll(paths).map { $0?.unsigned(atMost: .max) }
        }
    }
}
