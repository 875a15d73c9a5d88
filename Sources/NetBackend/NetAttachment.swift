internal import Descriptors
public import HostNetwork
internal import Xenbus
internal import Xenstore

/// How interfaces become part of the host's network where no script does it.
public struct NetAttachment: Sendable {
    private let network: HostNetwork
    private let mode: AttachmentMode?

    /// - Parameter mode: unless an interface's own nodes say otherwise; nil: somebody else attaches them.
    public init(_ network: HostNetwork, unlessSaid mode: AttachmentMode?) {
        self.network = network
        self.mode = mode
    }

    /// Beside `ip`.
    static let keys = ["script", "attach", "bridge", "gatewaydev"]

    /// Attaches it, if that is for us to do; returns what a script would have written then.
    func attach(
        _ device: String, _ index: Int32, _ keys: NodeValues
    ) throws(NetAttachmentFailure) -> [PublishedKey] {
        do {
            guard let request = try request(keys) else { return [] }
            try network.attach(device, index: index, request)
            return [PublishedKey("hotplug-status", "connected")]
        } catch {
            throw NetAttachmentFailure(description: "\(error)")
        }
    }

    /// Undoes it; nothing happens if there is nothing to undo.
    func detach(_ device: String) throws(Fault) { try network.detach(device) }

    /// What a script would have written: if the interface is not there, or is not attached.
    static func keys(after error: any Error) -> [PublishedKey] {
        guard error is NetAttachmentFailure || error is Fault else { return [] }
        return [PublishedKey("hotplug-error", "\(error)"), PublishedKey("hotplug-status", "error")]
    }

    /// Nil if it is for a script, or for somebody else.
    func request(_ keys: NodeValues) throws(KeyRefusal) -> AttachmentRequest? {
        guard !hasScript(keys), let mode = try mode(keys) else { return nil }
        if case .bridge = mode { return AttachmentRequest(mode, addresses: [], uplink: nil) }
        return AttachmentRequest(
            mode, addresses: try InterfaceSettings.addresses(keys["ip"]), uplink: try interface("gatewaydev", keys))
    }

    /// libxl always names one; `hotplug/vif-xen-netbackd` leaves the interface to us.
    private func hasScript(_ keys: NodeValues) -> Bool {
        guard let script = keys["script"] else { return false }
        return script.text?.split(separator: "/").last != "vif-xen-netbackd"
    }

    private func mode(_ keys: NodeValues) throws(KeyRefusal) -> AttachmentMode? {
        guard let mode = try ownMode(keys["attach"]) else { return nil }
        return try interface("bridge", keys).map(mode.through(bridge:)) ?? mode
    }

    private func ownMode(_ value: XenstoreValue?) throws(KeyRefusal) -> AttachmentMode? {
        guard let value else { return mode }
        if value.text == "none" { return nil }
        guard let mode = value.text.flatMap(AttachmentMode.init) else {
            throw KeyRefusal("attach", value, "must be none, bridge=NAME[,create][,isolated], routed or nat=SUBNET")
        }
        return mode
    }

    /// An empty node says nothing.
    private func interface(_ key: String, _ keys: NodeValues) throws(KeyRefusal) -> String? {
        guard let value = keys[key], value.text != "" else { return nil }
        guard let name = value.text, AttachmentMode.isInterfaceName(name) else {
            throw KeyRefusal(key, value, "must be the name of an interface")
        }
        return name
    }
}

/// Why an interface is not attached, in one line.
struct NetAttachmentFailure: Error, CustomStringConvertible {
    let description: String
}
