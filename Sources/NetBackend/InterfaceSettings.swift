internal import NetFrames
internal import XenWire
internal import Xenbus
internal import Xenstore

/// What the toolstack says of an interface.
struct InterfaceSettings {
    /// What the guest may send; nil: anything.
    let filter: SourceFilter?
    /// nil: as much as there is.
    let rate: TransferRate?
    /// The longest packet, Ethernet header not counted; nil: what the interface has.
    let mtu: Int?

    static let keys = ["mac", "ip", "filter", "mtu"] + liveKeys
    /// Those that may change while a guest is connected.
    static let liveKeys = ["rate"]
    /// From what IPv4 needs to a packet whose length, header and VLAN tag included, fits into 16 bits.
    private static let mtuRange: ClosedRange<UInt64> = 68...65_517

    /// - Parameter filters: what a missing `filter` means.
    init(_ keys: NodeValues, filters: Bool) throws(KeyRefusal) {
        let reader = KeyReader(keys)
        rate = try Self.rate(keys)
        mtu = keys["mtu"] == nil ? nil : Int(try reader.number("mtu", in: Self.mtuRange))
        guard try reader.flag("filter", ifMissing: filters) else {
            filter = nil
            return
        }
        filter = SourceFilter(mac: try Self.mac(keys["mac"]), addresses: try Self.addresses(keys["ip"]))
    }

    /// As libxl writes it: bytes, a comma, and the microseconds in which they may pass.
    static func rate(_ keys: NodeValues) throws(KeyRefusal) -> TransferRate? {
        guard let value = keys["rate"] else { return nil }
        let words = value.text?.split(separator: ",", omittingEmptySubsequences: false) ?? []
        let numbers = words.compactMap { XenstoreValue(Array($0.utf8)).unsigned(atMost: .max) }
        guard words.count == 2, numbers.count == 2,
            let rate = TransferRate(bytes: numbers[0], microseconds: numbers[1])
        else {
            throw KeyRefusal(
                "rate", value,
                "must be BYTES,MICROSECONDS with \(TransferRate.bytesRange.upperBound) and \(UInt32.max) at most")
        }
        return rate
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
