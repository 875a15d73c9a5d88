internal import NetFrames
internal import XenWire
internal import Xenbus
internal import Xenstore

/// What the toolstack says of an interface.
struct InterfaceSettings {
    /// What the guest may send; nil: anything.
    let filter: SourceFilter?

    static let keys = ["mac", "ip", "filter"]

    /// - Parameter filters: what a missing `filter` means.
    init(_ keys: NodeValues, filters: Bool) throws(KeyRefusal) {
        let reader = KeyReader(keys)
        guard try reader.flag("filter", ifMissing: filters) else {
            filter = nil
            return
        }
        filter = SourceFilter(mac: try Self.mac(keys["mac"]), addresses: try Self.addresses(keys["ip"]))
    }

    private static func mac(_ value: XenstoreValue?) throws(KeyRefusal) -> MACAddress? {
        guard let value else { return nil }
        guard let text = value.text, let mac = MACAddress(text), !mac.isMulticast else {
            throw KeyRefusal("mac", value, "must be six hexadecimal octets, not of a group")
        }
        return mac
    }

    /// Separated by blanks, as Xen's scripts take them; a gateway or a script's own words do not belong here.
    static func addresses(_ value: XenstoreValue?) throws(KeyRefusal) -> [AddressRange] {
        guard let value else { return [] }
        let words = value.text?.split(separator: " ") ?? []
        let addresses = words.compactMap { AddressRange($0) }
        guard value.text != nil, addresses.count == words.count, addresses.count <= 64 else {
            throw KeyRefusal("ip", value, "must be up to 64 addresses or networks, separated by blanks")
        }
        return addresses
    }
}
