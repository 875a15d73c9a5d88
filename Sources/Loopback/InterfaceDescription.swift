public import XenWire
internal import Xenbus

/// A virtual network interface as a toolstack describes it.
public struct InterfaceDescription: DeviceDescription {
    public var domain: DomainID
    public var backend: DomainID
    public var number: UInt32
    public var address: MACAddress

    /// The guest's first interface.
    public init(domain: DomainID, backend: DomainID = DomainID(0), number: UInt32 = 0, address: MACAddress) {
        self.domain = domain
        self.backend = backend
        self.number = number
        self.address = address
    }

    public var kind: String { "vif" }
    public var frontendKind: String { "vif" }
    /// What the host calls it.
    public var hostName: String { "vif\(domain).\(number)" }

    /// libxl_nic.c, libxl__set_xenstore_nic.
    public var backendNodes: [(String, String)] {
        [
            ("frontend-id", "\(domain)"), ("online", "1"), ("state", XenbusState.initialising.text),
            ("script", "/etc/xen/scripts/vif-bridge"), ("mac", "\(address)"), ("handle", "\(number)"), ("type", "vif"),
            ("hotplug-status", ""),
        ]
    }

    public var frontendNodes: [(String, String)] {
        [
            ("backend-id", "\(backend)"), ("state", XenbusState.initialising.text), ("handle", "\(number)"),
            ("mac", "\(address)"), ("trusted", "1"),
        ]
    }

    public var scriptNodes: [(String, String)] { [] }
}
