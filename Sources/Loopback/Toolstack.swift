internal import Descriptors
internal import Glibc
public import XenWire
internal import Xenbus
public import Xenstore

/// A disk as a toolstack describes it.
public struct DiskDescription: DeviceDescription {
    /// The guest's and the backend's domain.
    public var domain: DomainID
    public var backend: DomainID
    /// `vbd` or `vbd3`, the directory under `backend/`.
    public var kind: String
    /// What the guest calls it.
    public var virtualDevice: String
    /// What it is called in xenstore (xen-vbd-interface(7)); 51712 is xvda.
    public var number: UInt32
    /// The volume, as it is written to `params`.
    public var volume: String
    public var isReadOnly: Bool
    public var isCDROM: Bool
    public var isRemovable: Bool
    /// nil leaves the node out.
    public var discardEnable: Bool?
    /// The frontend's `protocol`, which libxl writes for PV guests; nil leaves it to the frontend.
    public var guestProtocol: String?

    /// A writable disk `xvda`.
    public init(
        domain: DomainID, volume: String, backend: DomainID = DomainID(0), kind: String = "vbd",
        virtualDevice: String = "xvda", number: UInt32 = 51712, isReadOnly: Bool = false, isCDROM: Bool = false,
        isRemovable: Bool = false, discardEnable: Bool? = nil, guestProtocol: String? = nil
    ) {
        self.domain = domain
        self.backend = backend
        self.kind = kind
        self.virtualDevice = virtualDevice
        self.number = number
        self.volume = volume
        self.isReadOnly = isReadOnly
        self.isCDROM = isCDROM
        self.isRemovable = isRemovable
        self.discardEnable = discardEnable ?? !isReadOnly
        self.guestProtocol = guestProtocol
    }

    public var frontendKind: String { "vbd" }

    /// The backend's nodes in libxl's order (libxl_disk.c, device_disk_add).
    public var backendNodes: [(String, String)] {
        [
            ("params", volume), ("script", "/etc/xen/scripts/block"), ("frontend-id", "\(domain)"), ("online", "1"),
            ("removable", isRemovable ? "1" : "0"), ("bootable", "1"), ("state", XenbusState.initialising.text),
            ("dev", virtualDevice), ("type", kind == "vbd" ? "phy" : kind), ("mode", isReadOnly ? "r" : "w"),
            ("device-type", isCDROM ? "cdrom" : "disk"),
        ] + (discardEnable.map { [("discard-enable", $0 ? "1" : "0")] } ?? []) + [("specification", "xen")]
    }

    /// The frontend's nodes in libxl's order.
    public var frontendNodes: [(String, String)] {
        [
            ("backend-id", "\(backend)"), ("state", XenbusState.initialising.text), ("virtual-device", "\(number)"),
            ("device-type", isCDROM ? "cdrom" : "disk"), ("trusted", "1"),
        ] + (guestProtocol.map { [("protocol", $0)] } ?? [])
    }

    /// What the `block` script leaves behind.
    public var scriptNodes: [(String, String)] { [("physical-device-path", volume)] }
}

/// A toolstack that does to xenstore what libxl does: the same nodes in the same order, the same transactions, the same
/// waits (libxl_device.c, libxl_disk.c, libxl_internal.h).
public final class Toolstack {
    /// LIBXL_INIT_TIMEOUT: until the backend is in InitWait.
    public static let initMilliseconds = 10_000
    /// LIBXL_DESTROY_TIMEOUT: until the backend is Closed.
    public static let destroyMilliseconds = 10_000

    private let xenstore: XenstoreClient
    private let patience: XenstorePatience

    /// - Parameter xenstore: dom0's connection, used by this object only.
    public init(_ xenstore: XenstoreClient, _ patience: XenstorePatience = .polling()) {
        self.xenstore = xenstore
        self.patience = patience
    }

    // ---- Domains

    /// Makes a domain's directories and its xenstore connection (libxl__domain_make).
    public func createDomain(_ domain: DomainID) throws(LoopbackError) {
        let readable = XenstorePermissions(owner: DomainID(0), grants: [.init(domain, .read)])
        let root = XenstorePath.domain(domain.rawValue)
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.transaction { store throws(XenstoreError) in
                for path in [root, try root.appending("device")] {
                    try store.makeDirectory(path)
                    try store.setPermissions(readable, of: path)
                }
                try store.write(root.appending("domid"), "\(domain)")
                try store.write(XenstorePath("/libxl/\(domain)/type"), "pv")
            }
            try xenstore.introduce(domain, frame: 1, port: EventPort(1))
        }
    }

    /// Takes a domain away, with what is left of its devices (libxl__destroy_domid).
    public func destroyDomain(_ domain: DomainID, _ devices: [any DeviceDescription] = []) throws(LoopbackError) {
        for device in devices { _ = try remove(device, .forced) }
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.remove(.domain(domain.rawValue))
            try xenstore.remove(XenstorePath("/libxl/\(domain)"))
            try xenstore.release(domain)
        }
    }

    // ---- Devices

    /// Creates a device, waits for its backend, and does the hotplug script's part.
    public func attach(_ device: some DeviceDescription) throws(LoopbackError) {
        try add(device)
        try awaitBackend(of: device)
        try hotplug(device)
    }

    /// Writes a device's nodes in one transaction (libxl__device_generic_add).
    public func add(_ device: some DeviceDescription) throws(LoopbackError) {
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.transaction { store throws(XenstoreError) in try Self.write(device, to: store) }
        }
    }

    private static func write(_ device: some DeviceDescription, to store: XenstoreTransaction) throws(XenstoreError) {
        let (front, back, library) = try (device.frontendPath, device.backendPath, device.libraryPath)
        try store.remove(library)
        try store.write(library.appending("frontend"), front.description)
        try store.write(library.appending("backend"), back.description)
        let guests = XenstorePermissions(owner: device.domain, grants: [.init(device.backend, .read)])
        try makeEmpty(front, guests, store)
        try store.write(front.appending("backend"), back.description)
        try write(device.frontendNodes, below: front, guests, store)
        let backends = XenstorePermissions(owner: device.backend, grants: [.init(device.domain, .read)])
        try makeEmpty(back, backends, store)
        try store.write(back.appending("frontend"), front.description)
        try write(device.backendNodes, below: back, backends, store)
        for (name, value) in device.backendNodes { try store.write(library.appending(name), value) }
    }

    private static func makeEmpty(
        _ path: XenstorePath, _ permissions: XenstorePermissions, _ store: XenstoreTransaction
    ) throws(XenstoreError) {
        try store.remove(path)
        try store.makeDirectory(path)
        try store.setPermissions(permissions, of: path)
    }

    private static func write(
        _ nodes: [(String, String)], below path: XenstorePath, _ permissions: XenstorePermissions,
        _ store: XenstoreTransaction
    ) throws(XenstoreError) {
        for (name, value) in nodes {
            try store.write(path.appending(name), value)
            try store.setPermissions(permissions, of: path.appending(name))
        }
    }

    /// Waits for InitWait, exactly (libxl__wait_device_connection).
    public func awaitBackend(of device: some DeviceDescription) throws(LoopbackError) {
        try awaitState(.initWait, of: device, milliseconds: Self.initMilliseconds)
    }

    /// What a device's script leaves behind when it has succeeded.
    public func hotplug(_ device: some DeviceDescription) throws(LoopbackError) {
        try Loopback.xenstore { () throws(XenstoreError) in
            let path = try device.backendPath
            for (name, value) in device.scriptNodes { try xenstore.write(path.appending(name), value) }
            try xenstore.write(path.appending("hotplug-status"), "connected")
        }
    }

    /// Changes a file's size and waits until the backend says so in `sectors`.
    public func resize(_ disk: DiskDescription, toBytes bytes: UInt64) throws(LoopbackError) {
        // The path is only read.
        guard let size = off_t(exactly: bytes), unsafe truncate(disk.volume, size) == 0 else {
            throw .host(Fault("truncate \(disk.volume)", errno: errno))
        }
        let path = try Loopback.xenstore { () throws(XenstoreError) in try disk.backendPath.appending("sectors") }
        let seen = try wait(on: path, milliseconds: Self.initMilliseconds) { store throws(XenstoreError) in
            try store.read(path)?.text == "\(bytes / Sector.size)" ? true : nil
        }
        if seen == nil { throw .badNode(path) }
    }

    // ---- Removal

    /// How hard a device is removed.
    public enum Removal: Sendable {
        /// `xl block-detach`: the guest may refuse, and then the device stays, in Closing.
        case asked
        /// `xl destroy`: the frontend's directory goes first, and after the time-out everything else.
        case forced
    }

    /// Removes a device (libxl's initiate_device_generic_remove); false if it had to be taken away from a backend that
    /// did not close.
    @discardableResult
    public func remove(_ device: some DeviceDescription, _ removal: Removal = .asked) throws(LoopbackError) -> Bool {
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.transaction { store throws(XenstoreError) in
                if removal == .forced { try store.remove(device.frontendPath) }
                try Self.requestClosing(device, store)
            }
        }
        do throws(LoopbackError) {
            try awaitState(.closed, of: device, milliseconds: Self.destroyMilliseconds)
        } catch {
            guard case .noState = error, removal == .forced else { throw error }
            try deleteNodes(of: device)
            return false
        }
        try deleteNodes(of: device)
        return true
    }

    private static func requestClosing(_ device: some DeviceDescription, _ store: XenstoreTransaction)
        throws(XenstoreError)
    {
        let path = try device.backendPath
        guard let state = try store.read(path.appending("state"))?.text else { return }
        try store.write(path.appending("online"), "0")
        if state != XenbusState.closed.text { try store.write(path.appending("state"), XenbusState.closing.text) }
    }

    /// Removes the nodes, and the parents that this leaves empty (libxl__xs_path_cleanup): the end of
    /// `backend/vbd/<domid>` tells a daemon that it has nothing left to serve.
    private func deleteNodes(of device: some DeviceDescription) throws(LoopbackError) {
        try Loopback.xenstore { () throws(XenstoreError) in
            try xenstore.transaction { store throws(XenstoreError) in
                try Self.removeWithEmptyParents(device.frontendPath, store)
                try Self.removeWithEmptyParents(device.libraryPath, store)
                try Self.removeWithEmptyParents(device.backendPath, store)
            }
        }
    }

    private static func removeWithEmptyParents(
        _ path: XenstorePath, _ store: XenstoreTransaction
    ) throws(XenstoreError) {
        try store.remove(path)
        var parent = path.parent
        while let directory = parent, directory != .root, try store.directory(directory)?.isEmpty == true {
            try store.remove(directory)
            parent = directory.parent
        }
    }

    private func awaitState(
        _ wanted: XenbusState, of device: some DeviceDescription, milliseconds: Int
    ) throws(LoopbackError) {
        let path = try Loopback.xenstore { () throws(XenstoreError) in try device.backendPath.appending("state") }
        let reached = try wait(on: path, milliseconds: milliseconds) { store throws(XenstoreError) in
            // A backend directory that is gone is as good as closed.
            let value = try store.read(path)?.text
            return value == wanted.text || (value == nil && wanted == .closed) ? true : nil
        }
        guard reached == nil else { return }
        let seen = try Loopback.xenstore { () throws(XenstoreError) in try xenstore.state(path) }
        throw .noState(wanted, of: path, seen: seen, milliseconds: milliseconds)
    }

    private func wait<Value>(
        on path: XenstorePath, milliseconds: Int, for condition: (XenstoreClient) throws(XenstoreError) -> Value?
    ) throws(LoopbackError) -> Value? {
        try Loopback.xenstore { () throws(XenstoreError) in
            let watch = try xenstore.watch(path)
            let value = try patience.wait(xenstore, milliseconds: milliseconds) { () throws(XenstoreError) in
                try condition(xenstore)
            }
            try xenstore.unwatch(watch)
            return value
        }
    }
}
