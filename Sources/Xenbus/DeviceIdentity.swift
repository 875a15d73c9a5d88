public import XenWire
public import Xenstore

/// A device class on one machine: which domain serves it to which.
public struct DeviceClass: Hashable, Sendable {
    /// The backend's directory: `vbd`, `vbd3`, `vif`.
    public let backendType: String
    /// The frontend's directory; blkfront's is `vbd` whatever the backend's is called.
    public let frontendType: String
    /// The domain that this process belongs to.
    public let backend: DomainID
    /// The domain that is served.
    public let frontend: DomainID

    public init(backendType: String, frontendType: String, backend: DomainID, frontend: DomainID) {
        self.backendType = backendType
        self.frontendType = frontendType
        self.backend = backend
        self.frontend = frontend
    }

    /// `/local/domain/<backend>/backend/<type>/<frontend>`: one child per device.
    public func directory() throws(XenstoreError) -> XenstorePath {
        try .domain(backend.rawValue).appending("backend/\(backendType)/\(frontend)")
    }

    /// A device of this class.
    public func device(_ number: UInt32) throws(XenstoreError) -> DeviceIdentity {
        try DeviceIdentity(self, number)
    }
}

/// One device and where its two ends live. Both paths are made here, from numbers: what a node claims is only compared.
public struct DeviceIdentity: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let deviceClass: DeviceClass
    /// The frontend's handle for it; for disks the encoded name, 51712 for xvda (xen-vbd-interface(7)).
    public let number: UInt32
    public let backendPath: XenstorePath
    public let frontendPath: XenstorePath

    init(_ deviceClass: DeviceClass, _ number: UInt32) throws(XenstoreError) {
        self.deviceClass = deviceClass
        self.number = number
        backendPath = try deviceClass.directory().appending("\(number)")
        frontendPath = try .domain(deviceClass.frontend.rawValue)
            .appending("device/\(deviceClass.frontendType)/\(number)")
    }

    /// By number, as guests enumerate them.
    public static func < (left: DeviceIdentity, right: DeviceIdentity) -> Bool {
        (left.number, left.deviceClass.backendType) < (right.number, right.deviceClass.backendType)
    }

    /// A device number as a directory name: canonical decimal, or it is not one of ours.
    public static func number(from name: String) -> UInt32? {
        guard let number = UInt32(name), String(number) == name else { return nil }
        return number
    }

    /// `vbd-5-51712`, as Linux names the device under /sys/bus/xen-backend.
    public var description: String { "\(deviceClass.backendType)-\(deviceClass.frontend)-\(number)" }
}
