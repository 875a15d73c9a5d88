internal import CLinux
internal import NetFrames

/// Requests of rtnetlink(7) that HostNetwork makes.
enum RouteMessages {
    // MARK: interfaces

    static let links = NetlinkMessage(linux_rtm_get_link, linkHeader())

    /// struct ifinfomsg: only the flags that `change` has are set.
    private static func linkHeader(
        _ index: Int32 = 0, family: Int32 = AF_UNSPEC, flags: UInt32 = 0, change: UInt32 = 0
    ) -> [UInt8] {
        [UInt8(truncatingIfNeeded: family), 0, 0, 0] + NetlinkBytes.of(index) + NetlinkBytes.of(flags)
            + NetlinkBytes.of(change)
    }

    /// IFF_UP of net/if.h.
    private static let up: UInt32 = 1

    /// A bridge that is up and forwards at once, as Xen's scripts make them.
    static func createBridge(_ name: String) -> NetlinkMessage {
        let properties = [NetlinkAttribute(IFLA_BR_FORWARD_DELAY, 0), NetlinkAttribute(IFLA_BR_STP_STATE, 0)]
        return NetlinkMessage(
            linux_rtm_new_link, flags: NLM_F_CREATE | NLM_F_EXCL, linkHeader(flags: up, change: up),
            [
                NetlinkAttribute(IFLA_IFNAME, name),
                NetlinkAttribute(
                    IFLA_LINKINFO,
                    [NetlinkAttribute(IFLA_INFO_KIND, "bridge"), NetlinkAttribute(IFLA_INFO_DATA, properties)]),
            ])
    }

    static func deleteLink(_ index: Int32) -> NetlinkMessage {
        NetlinkMessage(linux_rtm_delete_link, linkHeader(index))
    }

    static func setUp(_ index: Int32, _ isUp: Bool) -> NetlinkMessage {
        NetlinkMessage(linux_rtm_new_link, linkHeader(index, flags: isUp ? up : 0, change: up))
    }

    static func setMTU(_ index: Int32, _ bytes: UInt32) -> NetlinkMessage {
        NetlinkMessage(linux_rtm_new_link, linkHeader(index), [NetlinkAttribute(IFLA_MTU, bytes)])
    }

    /// - Parameter bridge: 0 for none.
    static func setMaster(_ index: Int32, _ bridge: Int32) -> NetlinkMessage {
        NetlinkMessage(
            linux_rtm_new_link, linkHeader(index), [NetlinkAttribute(IFLA_MASTER, UInt32(bitPattern: bridge))])
    }

    /// Isolated ports reach ports that are not, and no others.
    static func setIsolated(_ index: Int32, _ isIsolated: Bool) -> NetlinkMessage {
        NetlinkMessage(
            linux_rtm_new_link, linkHeader(index),
            [
                NetlinkAttribute(
                    IFLA_LINKINFO,
                    [
                        NetlinkAttribute(IFLA_INFO_SLAVE_KIND, "bridge"),
                        NetlinkAttribute(
                            IFLA_INFO_SLAVE_DATA, [NetlinkAttribute(IFLA_BRPORT_ISOLATED, [isIsolated ? 1 : 0])]),
                    ])
            ])
    }

    // MARK: addresses, routes, proxies

    private static func family(_ range: AddressRange) -> UInt8 {
        UInt8(truncatingIfNeeded: range.isV4 ? AF_INET : AF_INET6)
    }

    static let addresses = NetlinkMessage(linux_rtm_get_address, [UInt8](repeating: 0, count: 8))

    /// struct ifaddrmsg: family, length, flags, scope, interface.
    private static func address(_ type: UInt16, _ flags: Int32, _ range: AddressRange, _ index: Int32) -> NetlinkMessage
    {
        NetlinkMessage(
            type, flags: flags, [family(range), UInt8(clamping: range.length), 0, 0] + NetlinkBytes.of(index),
            [NetlinkAttribute(IFA_LOCAL, range.bytes), NetlinkAttribute(IFA_ADDRESS, range.bytes)])
    }

    static func add(_ range: AddressRange, to index: Int32) -> NetlinkMessage {
        address(linux_rtm_new_address, NLM_F_CREATE | NLM_F_EXCL, range, index)
    }

    static func remove(_ range: AddressRange, from index: Int32) -> NetlinkMessage {
        address(linux_rtm_delete_address, 0, range, index)
    }

    static func routes(v4: Bool) -> NetlinkMessage {
        NetlinkMessage(
            linux_rtm_get_route,
            [UInt8(truncatingIfNeeded: v4 ? AF_INET : AF_INET6)] + [UInt8](repeating: 0, count: 11))
    }

    /// struct rtmsg: family, lengths of destination and source, type of service, table, origin, scope, type, flags.
    private static func route(_ type: UInt16, _ flags: Int32, _ range: AddressRange, _ index: Int32) -> NetlinkMessage {
        let scope = range.isV4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE
        let header: [UInt8] = [
            family(range), UInt8(clamping: range.length), 0, 0, UInt8(RT_TABLE_MAIN.rawValue), UInt8(RTPROT_STATIC),
            UInt8(scope.rawValue), UInt8(RTN_UNICAST),
        ]
        return NetlinkMessage(
            type, flags: flags, header + [0, 0, 0, 0],
            [
                NetlinkAttribute(RTA_DST.rawValue, range.bytes),
                NetlinkAttribute(RTA_OIF.rawValue, UInt32(bitPattern: index)),
            ])
    }

    static func route(_ range: AddressRange, through index: Int32) -> NetlinkMessage {
        route(linux_rtm_new_route, NLM_F_CREATE | NLM_F_EXCL, range, index)
    }

    static func removeRoute(_ range: AddressRange, through index: Int32) -> NetlinkMessage {
        route(linux_rtm_delete_route, 0, range, index)
    }

    /// struct ndmsg: family, padding, interface, state, flags, type.
    private static func proxyHeader(_ family: UInt8, _ index: Int32) -> [UInt8] {
        [family, 0, 0, 0] + NetlinkBytes.of(index) + [0, 0, UInt8(NTF_PROXY), 0]
    }

    static let proxies = NetlinkMessage(linux_rtm_get_neighbour, proxyHeader(0, 0))

    /// The host answers for `range`, one address, where it is asked on an interface.
    static func answer(for range: AddressRange, on index: Int32) -> NetlinkMessage {
        NetlinkMessage(
            linux_rtm_new_neighbour, flags: NLM_F_CREATE, proxyHeader(family(range), index),
            [NetlinkAttribute(NDA_DST, range.bytes)])
    }

    static func stopAnswering(for range: AddressRange, on index: Int32) -> NetlinkMessage {
        NetlinkMessage(
            linux_rtm_delete_neighbour, proxyHeader(family(range), index), [NetlinkAttribute(NDA_DST, range.bytes)])
    }
}
