import Testing
import Xenbus
import Xenstore

@testable import NetBackend

/// Every key of a frontend's directory with every kind of value that a guest may write.
@Suite struct NetKeysTests {
    /// Nil: the node is missing.
    private static let kinds: [[UInt8]?] = [
        nil, text(""), text("x"), text("-1"), text(" 1"), text("01"), text("4294967296"), text("18446744073709551616"),
        [0xFF],
    ]

    /// What a key's value must be.
    enum Rule {
        /// 0 or 1, and 0 if the node is missing.
        case flag
        /// The same, but a backend that does not flip pages takes 1 only.
        case mustBeOne
        /// A number in a range; a missing node means another number, or is refused.
        case number(ClosedRange<UInt64>, ifMissing: UInt64?)
        /// Any value means the same as none.
        case ignored

        static let reference = Rule.number(0...4_294_967_295, ifMissing: nil)
        static let port = Rule.number(1...131_071, ifMissing: nil)

        /// Leading zeros are taken in numbers, for nobody says that they may not be there.
        func allows(_ value: [UInt8]?) -> Bool {
            switch self {
            case .flag: value == nil
            case .mustBeOne: false
            case .number(_, let missing): value.map { $0 == NetKeysTests.text("01") } ?? (missing != nil)
            case .ignored: true
            }
        }

        /// What a missing node is the same as.
        var absent: String? {
            switch self {
            case .flag: "0"
            case .number(_, let missing): missing.map { "\($0)" }
            case .mustBeOne, .ignored: nil
            }
        }
    }

    /// A directory with which nothing is wrong.
    enum Frontend: CaseIterable {
        case plain, split, queues, steering

        var nodes: [String: String] {
            var nodes = Dictionary(uniqueKeysWithValues: NetKeysTests.flags.map { ($0, "1") })
            nodes["request-rx-copy"] = "1"
            for prefix in self == .queues ? ["queue-0/", "queue-1/"] : [""] {
                let base = prefix == "queue-1/" ? 20 : 10
                nodes[prefix + "tx-ring-ref"] = "\(base)"
                nodes[prefix + "rx-ring-ref"] = "\(base + 1)"
                if self == .plain || self == .steering {
                    nodes[prefix + "event-channel"] = "\(base + 2)"
                } else {
                    nodes[prefix + "event-channel-tx"] = "\(base + 2)"
                    nodes[prefix + "event-channel-rx"] = "\(base + 3)"
                }
            }
            if self == .queues { nodes["multi-queue-num-queues"] = "2" }
            if self == .steering { nodes.merge(["ctrl-ring-ref": "30", "event-channel-ctrl": "31"]) { $1 } }
            return nodes
        }

        /// The keys that mean something here, and those that mean nothing anywhere.
        var rules: [String: Rule] {
            var rules = Dictionary(uniqueKeysWithValues: NetKeysTests.flags.map { ($0, Rule.flag) })
            for name in NetKeysTests.unknown { rules[name] = .ignored }
            rules["request-rx-copy"] = .mustBeOne
            for (name, value) in nodes where Int(value) ?? 0 > 1 {
                rules[name] = name.contains("event-channel") ? .port : .reference
            }
            rules["multi-queue-num-queues"] = self == .queues ? nil : .number(1...8, ifMissing: 1)
            if self == .steering { rules["ctrl-ring-ref"] = .number(0...4_294_967_295, ifMissing: 0) }
            if self == .plain { rules["event-channel-ctrl"] = .ignored }
            if self == .split { rules["event-channel"] = .ignored }
            if self == .queues {
                for name in NetKeysTests.ringKeys { rules[name] = .ignored }
            }
            return rules
        }
    }

    private static let flags = [
        "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-no-csum-offload",
        "feature-ipv6-csum-offload",
    ]

    /// Of the only queue.
    private static let ringKeys = [
        "tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx",
    ]

    /// Written by some frontends, read by nobody.
    private static let unknown = ["feature-gso-tcpv4-prefix", "feature-gso-tcpv6-prefix", "feature-smart-poll"]

    private static let liveRules: [String: Rule] = [
        "request-multicast-control": .flag, "xdp-headroom": .number(0...4082, ifMissing: 0),
    ]

    private static func text(_ text: String) -> [UInt8] { Array(text.utf8) }

    private static func values(_ nodes: [String: String], _ key: String, _ value: [UInt8]?) -> NodeValues {
        var values = nodes.mapValues { XenstoreValue(text($0)) }
        values[key] = value.map { XenstoreValue($0) }
        return values
    }

    /// What it amounts to, or the refusal.
    private static func negotiate(_ values: NodeValues) -> Result<NetConnection, KeyRefusal> {
        Result { () throws(KeyRefusal) in try NetConnection.negotiate(values, NetOffer()) }
    }

    private static func live(_ values: NodeValues) -> Result<LiveSettings, KeyRefusal> {
        Result { () throws(KeyRefusal) in try LiveSettings(values) }
    }

    /// Refused with the key's name and its value, or taken, as the rule says.
    private static func check<Outcome>(
        _ result: Result<Outcome, KeyRefusal>, _ rule: Rule, _ key: String, _ value: [UInt8]?
    ) {
        let label = "\(key) \(value.map { XenstoreValue($0).description } ?? "missing")"
        switch result {
        case .success: #expect(rule.allows(value), "\(label) was taken")
        case .failure(let refusal):
            #expect(!rule.allows(value), "\(label) was refused: \(refusal)")
            #expect(refusal.key == key, "\(label): \(refusal)")
            #expect(refusal.found == value.map { XenstoreValue($0).description })
        }
    }

    @Test(arguments: Frontend.allCases)
    func `a value is taken or refused by its key's rule`(_ frontend: Frontend) {
        for (key, rule) in frontend.rules {
            for value in Self.kinds {
                let values = Self.values(frontend.nodes, key, value)
                _ = NetConnection.ringKeys(after: values, NetOffer())
                Self.check(Self.negotiate(values), rule, key, value)
            }
        }
    }

    @Test(arguments: Frontend.allCases)
    func `a missing node means its default, and one that nobody reads means nothing`(_ frontend: Frontend) {
        for (key, rule) in frontend.rules {
            let missing = Self.negotiate(Self.values(frontend.nodes, key, nil))
            if let absent = rule.absent, key != "ctrl-ring-ref" {
                #expect(missing == Self.negotiate(Self.values(frontend.nodes, key, Self.text(absent))), "\(key)")
            }
            guard case .ignored = rule else { continue }
            for value in Self.kinds {
                #expect(missing == Self.negotiate(Self.values(frontend.nodes, key, value)), "\(key)")
            }
        }
    }

    @Test func `without a control ring's page there is no control ring`() throws {
        let values = Self.values(Frontend.steering.nodes, "ctrl-ring-ref", nil)
        #expect(try Self.negotiate(values).get().control == nil)
        #expect(try Self.negotiate(Self.values(Frontend.steering.nodes, "", nil)).get().control != nil)
    }

    @Test(arguments: ["-1", "", "x", "01", " 2", "4294967296", "18446744073709551616"])
    func `a bad number of queues is refused before any queue is looked at`(_ count: String) {
        let values = Self.values(Frontend.queues.nodes, "multi-queue-num-queues", Self.text(count))
        #expect(NetConnection.ringKeys(after: values, NetOffer()).isEmpty)
        guard case .failure(let refusal) = Self.negotiate(values) else {
            Issue.record("\(count) was taken")
            return
        }
        // One queue is a good number, but then its keys are elsewhere.
        #expect(refusal.key == (count == "01" ? "tx-ring-ref" : "multi-queue-num-queues"))
    }

    @Test func `live keys are taken or refused by their rules`() {
        for (key, rule) in Self.liveRules {
            for value in Self.kinds { Self.check(Self.live(Self.values([:], key, value)), rule, key, value) }
            let absent = Self.values([:], key, rule.absent.map(Self.text))
            #expect(Self.live([:]) == Self.live(absent), "\(key)")
        }
        #expect(Set(Self.liveRules.keys) == Set(LiveSettings.keys))
    }

    @Test func `every key that is read has a rule here`() {
        let named = Frontend.allCases.reduce(into: Set<String>()) { $0.formUnion($1.rules.keys) }
        #expect(named.isSuperset(of: NetConnection.fixedKeys))
    }
}
