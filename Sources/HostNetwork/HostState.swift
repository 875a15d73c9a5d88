internal import CLinux
internal import Descriptors
internal import Glibc
internal import NetFrames

/// The host's network as it is now, as far as attachments depend on it.
struct HostState: Equatable {
    var links: [Link] = []
    /// With the interface's number.
    var addresses: [Place] = []
    /// Of the main table. A route through several interfaces is there once for each.
    var routes: [Place] = []
    /// For which addresses the host answers, and where.
    var proxies: [Place] = []

    /// Addresses and an interface's number.
    struct Place: Equatable {
        let range: AddressRange
        let index: Int32
    }

    /// A network interface.
    struct Link: Equatable {
        let index: Int32
        let name: String
        /// `bridge`, `tun`; nil for hardware.
        let kind: String?
        /// The bridge whose port it is; 0: none.
        let master: Int32
        let mtu: UInt32
    }

    func link(_ name: String) -> Link? { links.first { $0.name == name } }
    func link(_ index: Int32) -> Link? { links.first { $0.index == index } }

    /// Where packets leave that no other route takes.
    func uplinks(v4: Bool) -> [Link] {
        let defaults = routes.filter { $0.range.isV4 == v4 && $0.range.length == 0 }.map(\.index)
        return links.filter { defaults.contains($0.index) }
    }
}

extension HostState {
    init(_ socket: NetlinkSocket) throws(Fault) {
        links = try socket.dump(RouteMessages.links, "list the network interfaces").compactMap { Link($0) }
        addresses = try socket.dump(RouteMessages.addresses, "list the host's addresses").compactMap {
            Place(address: $0)
        }
        for isV4 in [true, false] {
            routes += try socket.dump(RouteMessages.routes(v4: isV4), "list the host's routes").flatMap(Place.routes)
        }
        proxies = try socket.dump(RouteMessages.proxies, "list the host's proxies").compactMap { Place(proxy: $0) }
    }
}

extension HostState.Link {
    init?(_ reply: NetlinkReply) {
        let attributes = reply.attributes(after: 16)
        guard reply.type == linux_rtm_new_link, let index = reply.payload.number(at: 4, as: Int32.self),
            let name = attributes.text(IFLA_IFNAME)
        else { return nil }
        self.index = index
        self.name = name
        kind = attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND)
        master = Int32(bitPattern: attributes.number(IFLA_MASTER) ?? 0)
        mtu = attributes.number(IFLA_MTU) ?? 0
    }
}

extension HostState.Place {
    /// What a family calls an address that is not there: all zeros.
    private static func range(_ family: UInt8, _ bytes: ArraySlice<UInt8>?, _ length: Int?) -> AddressRange? {
        guard let size = [UInt8(AF_INET): 4, UInt8(AF_INET6): 16][family] else { return nil }
        return AddressRange(
            bytes: bytes.map { Array($0) } ?? Array(repeating: 0, count: size), length: length ?? size * 8)
    }

    init?(address reply: NetlinkReply) {
        let attributes = reply.attributes(after: 8)
        guard reply.type == linux_rtm_new_address, let family = reply.payload.first,
            let length = reply.payload.number(at: 1, as: UInt8.self),
            let index = reply.payload.number(at: 4, as: Int32.self),
            // Of a point-to-point link IFA_ADDRESS is the other end.
            let range = Self.range(family, attributes.bytes(IFA_LOCAL) ?? attributes.bytes(IFA_ADDRESS), Int(length))
        else { return nil }
        self.init(range: range, index: index)
    }

    init?(proxy reply: NetlinkReply) {
        guard reply.type == linux_rtm_new_neighbour, let family = reply.payload.first,
            let index = reply.payload.number(at: 4, as: Int32.self),
            let bytes = reply.attributes(after: 12).bytes(NDA_DST), let range = Self.range(family, bytes, nil)
        else { return nil }
        self.init(range: range, index: index)
    }

    static func routes(_ reply: NetlinkReply) -> [Self] {
        let attributes = reply.attributes(after: 12)
        guard reply.type == linux_rtm_new_route, let family = reply.payload.first,
            let length = reply.payload.number(at: 1, as: UInt8.self),
            let table = attributes.number(RTA_TABLE.rawValue), table == RT_TABLE_MAIN.rawValue,
            let range = Self.range(family, attributes.bytes(RTA_DST.rawValue), Int(length))
        else { return [] }
        let single = attributes.number(RTA_OIF.rawValue).map { [Int32(bitPattern: $0)] }
        let indices = single ?? hops(attributes.bytes(RTA_MULTIPATH.rawValue) ?? [])
        return indices.map { Self(range: range, index: $0) }
    }

    /// The interfaces of a route through several (rtnetlink(7), struct rtnexthop).
    private static func hops(_ bytes: ArraySlice<UInt8>) -> [Int32] {
        var (rest, indices) = (bytes, [Int32]())
        while let length = rest.number(at: 0, as: UInt16.self), length >= 8, length <= rest.count,
            let index = rest.number(at: 4, as: Int32.self)
        {
            indices.append(index)
            rest = rest.dropFirst((Int(length) + 3) & ~3)
        }
        return indices
    }
}
