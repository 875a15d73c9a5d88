internal import NetFrames

/// What has to be changed for one interface, decided from what is there; pure.
struct AttachmentPlan {
    /// Whose interface it is: `vif-5-0`.
    let device: String
    let interface: HostState.Link
    let request: AttachmentRequest
    let host: HostState
    let ledger: Ledger
    /// What a file below /proc/sys says; nil if there is none.
    let setting: (String) -> String?

    /// In the order in which they are to be made.
    func changes() throws(AttachmentError) -> [Change] {
        switch request.mode {
        case .bridge(let name, let isCreated, let isIsolated):
            try bridged(by: name, isCreated: isCreated, isIsolated: isIsolated)
        case .routed: try routed()
        case .translated(let network): try translated(in: network)
        }
    }

    // MARK: a bridge

    private func bridged(by name: String, isCreated: Bool, isIsolated: Bool) throws(AttachmentError) -> [Change] {
        let port: [Change] = [.port(bridge: name, isIsolated: isIsolated), .up]
        guard let bridge = host.link(name) else {
            guard isCreated else { throw .missingBridge(name) }
            return [.bridge(name)] + port
        }
        guard bridge.kind == "bridge" else { throw .noBridge(name) }
        return [ledger.shared(.bridge(name))].compactMap { $0 } + size(like: bridge) + port
    }

    /// A bridge takes the smallest MTU of its ports, so a port takes the bridge's. One that was given an MTU keeps it.
    private func size(like bridge: HostState.Link) -> [Change] {
        let isUntouched = interface.mtu == 1500 && bridge.mtu != 1500
        return isUntouched ? [.mtu(before: interface.mtu, after: bridge.mtu)] : []
    }

    // MARK: routes

    private func routed() throws(AttachmentError) -> [Change] {
        let ranges = request.addresses.map(\.network)
        guard !ranges.isEmpty else { throw .addressMissing(request.mode) }
        for range in ranges { try check(range) }
        let uplinks = try uplinks()
        var changes = forwarding4(ranges.contains { $0.isV4 }, uplinks.v4)
        changes += try forwarding6(ranges.contains { !$0.isV4 }, uplinks.v6)
        changes += [.up] + ranges.map { .route($0) }
        return changes + proxies(ranges, uplinks.v4 + uplinks.v6)
    }

    /// The guest is to be the only one with these addresses.
    private func check(_ range: AddressRange) throws(AttachmentError) {
        if let holder = holder(of: range) { throw .addressTaken(range, by: holder, wantedBy: device) }
    }

    private func holder(of range: AddressRange) -> String? {
        let others = ledger.entries.filter { $0.device != device }
        if let other = others.first(where: { $0.addresses.contains { $0.overlaps(range) } }) { return other.device }
        let own = host.addresses.first { place in
            AddressRange(bytes: place.range.bytes, length: place.range.bytes.count * 8)?.isWithin(range) ?? false
        }
        let routed = host.routes.first { $0.range == range && $0.index != interface.index }
        return (own ?? routed).flatMap { host.link($0.index)?.name }
    }

    private func uplinks() throws(AttachmentError) -> (v4: [HostState.Link], v6: [HostState.Link]) {
        guard let name = request.uplink else { return (host.uplinks(v4: true), host.uplinks(v4: false)) }
        guard let link = host.link(name) else { throw .missingUplink(name) }
        return ([link], [link])
    }

    /// IPv4 is forwarded by the interface that it comes in by.
    private func forwarding4(_ isWanted: Bool, _ uplinks: [HostState.Link]) -> [Change] {
        guard isWanted else { return [] }
        return switchOn(.ipv4, interface, "forwarding") + switchOn(.ipv4, interface, "proxy_arp")
            + uplinks.flatMap { switchOn(.ipv4, $0, "forwarding") }
    }

    /// IPv6 as well since Linux 6.17, with `force_forwarding`. Before, it is forwarded for all interfaces or none, and with
    /// that a host gives up the routes that it learns by itself: this is left to who runs it.
    private func forwarding6(_ isWanted: Bool, _ uplinks: [HostState.Link]) throws(AttachmentError) -> [Change] {
        guard isWanted else { return [] }
        let proxies = switchOn(.ipv6, interface, "proxy_ndp")
        guard setting(Setting.path(.ipv6, "all", "forwarding")) == "0" else { return proxies }
        guard setting(Setting.path(.ipv6, interface.name, "force_forwarding")) != nil else { throw .noForwarding }
        return proxies + ([interface] + uplinks).flatMap { switchOn(.ipv6, $0, "force_forwarding") }
    }

    /// Nothing if it is on already, except by another attachment: then both hold it.
    private func switchOn(_ family: Setting.Family, _ link: HostState.Link, _ name: String) -> [Change] {
        let wanted = Setting(family: family, interface: link.name, name: name, before: "0")
        if let known = ledger.shared(.setting(wanted)) { return [known] }
        return setting(wanted.path) == wanted.before ? [.setting(wanted)] : []
    }

    /// Who asks for a guest's address where it seems to be a neighbour gets the host's answer.
    private func proxies(_ ranges: [AddressRange], _ uplinks: [HostState.Link]) -> [Change] {
        ranges.filter(\.isSingle).flatMap { range in
            uplinks.filter { isNeighbour(range, on: $0) }.flatMap { uplink in
                (range.isV4 ? [] : switchOn(.ipv6, uplink, "proxy_ndp")) + [.proxy(range, on: uplink.name)]
            }
        }
    }

    private func isNeighbour(_ range: AddressRange, on link: HostState.Link) -> Bool {
        let isNear = host.addresses.contains { $0.index == link.index && range.isWithin($0.range) }
        return isNear && !host.proxies.contains { $0.index == link.index && $0.range == range }
    }

    // MARK: behind the host's address

    private func translated(in network: AddressRange) throws(AttachmentError) -> [Change] {
        guard let first = request.addresses.first else { throw .addressMissing(request.mode) }
        let gateway = Self.gateway(of: network)
        guard request.addresses.count == 1, let guest = AddressRange(bytes: first.bytes, length: first.bytes.count * 8),
            guest.isWithin(network), guest != gateway, guest.bytes != network.bytes, let gateway
        else { throw .addressUnfit(first, request.mode) }
        try check(guest)
        return forwarding4(true, try uplinks().v4)
            + [.up, .address(gateway), .route(guest), .translation(guest)]
    }

    /// The first address after the network's own, which is even.
    private static func gateway(of network: AddressRange) -> AddressRange? {
        AddressRange(bytes: network.bytes.dropLast() + [(network.bytes.last ?? 0) | 1], length: 32)
    }
}
