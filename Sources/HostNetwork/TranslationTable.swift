internal import CLinux
internal import NetFrames

/// The nftables table of ours: guests behind the host's address (linux/netfilter/nf_tables.h).
///
/// It is made anew from all guests that there are, in one transaction, so nobody ever sees half of it and nothing has to be
/// remembered of it. Connections that are known stay known: that is conntrack's, not the table's.
struct TranslationTable: Equatable {
    /// A guest behind it.
    struct Guest: Equatable {
        let interface: Int32
        let address: AddressRange
    }

    let guests: [Guest]

    /// Of the family `ip`.
    static let name = "xen_netbackd"

    static let begin = batch(NFNL_MSG_BATCH_BEGIN)
    static let end = batch(NFNL_MSG_BATCH_END)

    /// struct nfgenmsg; the last two bytes name the subsystem, in the network's order.
    private static func batch(_ type: Int32) -> NetlinkMessage {
        NetlinkMessage(UInt16(truncatingIfNeeded: type), [0, 0, 0, UInt8(NFNL_SUBSYS_NFTABLES)])
    }

    /// What makes the table so, whatever it was before; without guests it is gone.
    var messages: [NetlinkMessage] {
        // Deleting what is not there is an error, making what is there is none.
        let cleared = [Self.table(NFT_MSG_NEWTABLE, NLM_F_CREATE), Self.table(NFT_MSG_DELTABLE)]
        guard !guests.isEmpty else { return cleared }
        return cleared + [Self.table(NFT_MSG_NEWTABLE, NLM_F_CREATE)] + translation + protection
    }

    // MARK: rules

    /// Guests see each other as they are, everybody else sees the host.
    private var translation: [NetlinkMessage] {
        [Self.chain("postrouting", type: "nat", NF_INET_POST_ROUTING, priority: 100)]
            + guests.map { Self.rule("postrouting", Self.meta(NFT_META_OIF, $0.interface) + [Self.accept]) }
            + guests.map { Self.rule("postrouting", Self.source($0.address) + [Self.expression("masq", [])]) }
    }

    /// From outside come answers and what the host translates to a guest; guests reach each other.
    private var protection: [NetlinkMessage] {
        [Self.chain("forward", type: "filter", NF_INET_FORWARD, priority: 0)]
            + guests.map { Self.rule("forward", Self.meta(NFT_META_IIF, $0.interface) + [Self.accept]) }
            + [
                Self.rule("forward", Self.connection(NFT_CT_STATE, Self.known) + [Self.accept]),
                Self.rule("forward", Self.connection(NFT_CT_STATUS, Self.translated) + [Self.accept]),
            ]
            + guests.map { Self.rule("forward", Self.meta(NFT_META_OIF, $0.interface) + [Self.drop]) }
    }

    /// Established or related: bits as the kernel's NF_CT_STATE_BIT makes them.
    private static let known: UInt32 = 2 | 4
    /// IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
    private static let translated: UInt32 = 32

    // MARK: messages

    private static func message(
        _ type: nf_tables_msg_types, _ flags: Int32, _ attributes: [NetlinkAttribute]
    ) -> NetlinkMessage {
        NetlinkMessage(
            UInt16(truncatingIfNeeded: NFNL_SUBSYS_NFTABLES << 8) | UInt16(truncatingIfNeeded: type.rawValue),
            flags: flags,
            [UInt8(NFPROTO_IPV4), 0, 0, 0], attributes)
    }

    private static func table(_ type: nf_tables_msg_types, _ flags: Int32 = 0) -> NetlinkMessage {
        message(type, flags, [NetlinkAttribute(NFTA_TABLE_NAME.rawValue, name)])
    }

    private static func chain(_ chain: String, type: String, _ hook: nf_inet_hooks, priority: UInt32) -> NetlinkMessage
    {
        message(
            NFT_MSG_NEWCHAIN, NLM_F_CREATE,
            [
                NetlinkAttribute(NFTA_CHAIN_TABLE.rawValue, name), NetlinkAttribute(NFTA_CHAIN_NAME.rawValue, chain),
                NetlinkAttribute(
                    NFTA_CHAIN_HOOK.rawValue,
                    [
                        NetlinkAttribute(NFTA_HOOK_HOOKNUM.rawValue, bigEndian: hook.rawValue),
                        NetlinkAttribute(NFTA_HOOK_PRIORITY.rawValue, bigEndian: priority),
                    ]),
                NetlinkAttribute(NFTA_CHAIN_POLICY.rawValue, bigEndian: UInt32(NF_ACCEPT)),
                NetlinkAttribute(NFTA_CHAIN_TYPE.rawValue, type),
            ])
    }

    private static func rule(_ chain: String, _ expressions: [NetlinkAttribute]) -> NetlinkMessage {
        message(
            NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND,
            [
                NetlinkAttribute(NFTA_RULE_TABLE.rawValue, name), NetlinkAttribute(NFTA_RULE_CHAIN.rawValue, chain),
                NetlinkAttribute(NFTA_RULE_EXPRESSIONS.rawValue, expressions),
            ])
    }

    // MARK: expressions

    private static func expression(_ kind: String, _ parts: [NetlinkAttribute]) -> NetlinkAttribute {
        NetlinkAttribute(
            NFTA_LIST_ELEM.rawValue,
            [NetlinkAttribute(NFTA_EXPR_NAME.rawValue, kind), NetlinkAttribute(NFTA_EXPR_DATA.rawValue, parts)])
    }

    private static let register = NFT_REG_1.rawValue

    private static func compare(_ operation: nft_cmp_ops, _ value: [UInt8]) -> NetlinkAttribute {
        expression(
            "cmp",
            [
                NetlinkAttribute(NFTA_CMP_SREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_CMP_OP.rawValue, bigEndian: operation.rawValue),
                NetlinkAttribute(NFTA_CMP_DATA.rawValue, [NetlinkAttribute(NFTA_DATA_VALUE.rawValue, value)]),
            ])
    }

    /// The interface that a packet came by or leaves by.
    private static func meta(_ key: nft_meta_keys, _ interface: Int32) -> [NetlinkAttribute] {
        let load = expression(
            "meta",
            [
                NetlinkAttribute(NFTA_META_DREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_META_KEY.rawValue, bigEndian: key.rawValue),
            ])
        return [load, compare(NFT_CMP_EQ, NetlinkBytes.of(interface))]
    }

    /// The sender, twelve bytes into the header (RFC 791).
    private static func source(_ address: AddressRange) -> [NetlinkAttribute] {
        let load = expression(
            "payload",
            [
                NetlinkAttribute(NFTA_PAYLOAD_DREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_PAYLOAD_BASE.rawValue, bigEndian: NFT_PAYLOAD_NETWORK_HEADER.rawValue),
                NetlinkAttribute(NFTA_PAYLOAD_OFFSET.rawValue, bigEndian: 12),
                NetlinkAttribute(NFTA_PAYLOAD_LEN.rawValue, bigEndian: 4),
            ])
        return [load, compare(NFT_CMP_EQ, address.bytes)]
    }

    /// Any of these bits is set for the packet's connection.
    private static func connection(_ key: nft_ct_keys, _ bits: UInt32) -> [NetlinkAttribute] {
        let load = expression(
            "ct",
            [
                NetlinkAttribute(NFTA_CT_DREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_CT_KEY.rawValue, bigEndian: key.rawValue),
            ])
        return [load, mask(bits), compare(NFT_CMP_NEQ, NetlinkBytes.of(UInt32(0)))]
    }

    private static func mask(_ bits: UInt32) -> NetlinkAttribute {
        func data(_ type: nft_bitwise_attributes, _ number: UInt32) -> NetlinkAttribute {
            NetlinkAttribute(type.rawValue, [NetlinkAttribute(NFTA_DATA_VALUE.rawValue, NetlinkBytes.of(number))])
        }
        return expression(
            "bitwise",
            [
                NetlinkAttribute(NFTA_BITWISE_SREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_BITWISE_DREG.rawValue, bigEndian: register),
                NetlinkAttribute(NFTA_BITWISE_LEN.rawValue, bigEndian: 4), data(NFTA_BITWISE_MASK, bits),
                data(NFTA_BITWISE_XOR, 0),
            ])
    }

    private static let accept = verdict(NF_ACCEPT)
    private static let drop = verdict(NF_DROP)

    private static func verdict(_ code: Int32) -> NetlinkAttribute {
        let verdict = NetlinkAttribute(
            NFTA_DATA_VERDICT.rawValue, [NetlinkAttribute(NFTA_VERDICT_CODE.rawValue, bigEndian: UInt32(code))])
        return expression(
            "immediate",
            [
                NetlinkAttribute(NFTA_IMMEDIATE_DREG.rawValue, bigEndian: NFT_REG_VERDICT.rawValue),
                NetlinkAttribute(NFTA_IMMEDIATE_DATA.rawValue, [verdict]),
            ])
    }
}
