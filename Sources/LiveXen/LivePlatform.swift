public import Descriptors
public import SharedRing
public import XenWire

/// The hypervisor under this machine, through Linux' devices.
public final class LivePlatform: RingPlatform {
    /// Opens both devices once, so that what is missing is said at start and not when the first guest connects.
    public init() throws(MissingPart) {
        try MissingPart.explain(GrantDevice.path) { () throws(Fault) in _ = try GrantDevice() }
        try MissingPart.explain(EventDevice.path) { () throws(Fault) in _ = try EventDevice() }
    }

    public func openGrantTable() throws(Fault) -> any GrantTable {
        try LiveGrantTable(GrantDevice())
    }

    public func bindEventChannel(to port: EventPort, of domain: DomainID) throws(Fault) -> any EventChannel {
        try LiveEventChannel(EventDevice(), to: port, of: domain)
    }
}
