import BlockBackend
import Testing
import XenWire
import Xenbus
import Xenstore

/// Nodes as a guest might have written them.
func nodes(_ texts: [String: String]) -> NodeValues {
    texts.mapValues { XenstoreValue(Array($0.utf8)) }
}

struct ConnectionTests {
    static let plain = ["protocol": "x86_64-abi", "ring-ref": "8", "event-channel": "3"]
    static let offer = ConnectionOffer()

    static func with(_ changes: [String: String?]) -> NodeValues {
        var texts = plain
        for (key, value) in changes { texts[key] = value }
        return nodes(texts)
    }

    static func negotiate(_ keys: NodeValues, _ offer: ConnectionOffer = offer) throws(KeyRefusal) -> Connection {
        try Connection.negotiate(keys, offer)
    }

    /// The key that a refusal names, or nil if there was none.
    static func refused(_ keys: NodeValues, _ offer: ConnectionOffer = offer) -> String? {
        do throws(KeyRefusal) {
            _ = try Connection.negotiate(keys, offer)
            return nil
        } catch {
            return error.key
        }
    }

    @Test func `one ring of one page`() throws {
        let expected = Connection(abi: .native, rings: [.init(references: [GrantReference(8)], port: EventPort(3))])
        #expect(try Self.negotiate(nodes(Self.plain)) == expected)
    }

    // MARK: protocol

    @Test(
        arguments: [
            (nil, BlockABI.x86_32), ("x86_32-abi", .x86_32), ("x86_64-abi", .native), ("arm-abi", .native),
        ] as [(String?, BlockABI)])
    func `the protocol names the layout; a missing one is x86_32`(_ text: String?, _ abi: BlockABI) throws {
        #expect(try Self.negotiate(Self.with(["protocol": text])).abi == abi)
    }

    @Test(arguments: [
        "", "x86_64", "x86_64-ABI", " x86_64-abi", "x86_64-abi\0", "ppc64-abi", "native",
        String(repeating: "a", count: 64), String(repeating: "x", count: 3000),
    ])
    func `any other protocol is refused`(_ text: String) {
        #expect(Self.refused(Self.with(["protocol": text])) == "protocol")
    }

    // MARK: numbers

    static let badNumbers = [
        "", " ", "-1", "+1", "1 ", " 1", "1\n", "1\0", "0x1", "1.0", "one", "\u{661}", "99999999999999999999",
        "18446744073709551617", "4294967296", String(repeating: "1", count: 3000), String(repeating: "0", count: 3000),
        "\u{FFFD}",
    ]
    static let numericKeys = ["ring-ref", "event-channel", "ring-page-order", "multi-queue-num-queues"]

    @Test(arguments: numericKeys, badNumbers)
    func `what is not a number in range is refused by its name`(_ key: String, _ text: String) {
        #expect(Self.refused(Self.with([key: text])) == key)
    }

    @Test(arguments: numericKeys)
    func `bytes that are no text are refused`(_ key: String) {
        var keys = nodes(Self.plain)
        keys[key] = XenstoreValue([0xff, 0xfe, 0x00])
        #expect(Self.refused(keys) == key)
    }

    @Test(arguments: ["ring-ref", "event-channel"])
    func `a ring needs its reference and its port`(_ key: String) {
        #expect(Self.refused(Self.with([key: nil])) == key)
    }

    @Test(arguments: [("0", false), ("1", true), ("131071", true), ("131072", false)])
    func `ports are 1 to 2^17 - 1`(_ text: String, _ valid: Bool) {
        #expect((Self.refused(Self.with(["event-channel": text])) == nil) == valid)
    }

    @Test(arguments: [("0", true), ("4294967295", true), ("4294967296", false)])
    func `references are 32 bits; Xen judges them`(_ text: String, _ valid: Bool) {
        #expect((Self.refused(Self.with(["ring-ref": text])) == nil) == valid)
    }

    // MARK: multi-page rings

    @Test(arguments: 1...4)
    func `a ring of several pages has numbered references`(_ order: Int) throws {
        var texts = ["event-channel": "3", "ring-page-order": "\(order)"]
        for page in 0..<(1 << order) { texts["ring-ref\(page)"] = "\(100 + page)" }
        let connection = try Self.negotiate(nodes(texts))
        let expected = (0..<(1 << order)).map { GrantReference(UInt32(100 + $0)) }
        #expect(connection.rings.map(\.references) == [expected])
        texts["ring-ref\((1 << order) - 1)"] = nil
        #expect(Self.refused(nodes(texts)) == "ring-ref\((1 << order) - 1)")
    }

    @Test(arguments: ["5", "40", "255"])
    func `a larger ring than offered is refused`(_ order: String) {
        #expect(Self.refused(Self.with(["ring-page-order": order])) == "ring-page-order")
    }

    @Test func `the offered order is the bound`() {
        let small = ConnectionOffer(ringPageOrder: 1)
        let keys = nodes(["event-channel": "1", "ring-page-order": "2", "ring-ref0": "1"])
        #expect(Self.refused(keys, small) == "ring-page-order")
    }

    @Test func `an order of zero takes either name, ring-ref0 first`() throws {
        func reference(_ changes: [String: String?]) throws -> [GrantReference] {
            try Self.negotiate(Self.with(changes)).rings[0].references
        }
        #expect(try reference(["ring-page-order": "0"]) == [GrantReference(8)])
        #expect(try reference(["ring-page-order": "0", "ring-ref": nil, "ring-ref0": "9"]) == [GrantReference(9)])
        #expect(try reference(["ring-page-order": "0", "ring-ref0": "9"]) == [GrantReference(9)])
        #expect(try reference(["ring-ref0": "9"]) == [GrantReference(8)])
        #expect(try reference(["ring-ref": nil, "ring-ref0": "9"]) == [GrantReference(9)])
    }

    // MARK: queues

    static func queues(_ count: Int, order: Int? = nil) -> [String: String] {
        var texts = ["multi-queue-num-queues": "\(count)", "protocol": "x86_64-abi"]
        texts["ring-page-order"] = order.map { "\($0)" }
        for queue in 0..<count {
            let prefix = count > 1 ? "queue-\(queue)/" : ""
            texts[prefix + "event-channel"] = "\(10 + queue)"
            for page in 0..<(1 << (order ?? 0)) {
                texts[prefix + (order == nil ? "ring-ref" : "ring-ref\(page)")] = "\(1000 + queue * 16 + page)"
            }
        }
        return texts
    }

    @Test(arguments: 1...8, [nil, 0, 1, 4] as [Int?])
    func `every number of queues with every size of ring`(_ count: Int, _ order: Int?) throws {
        let connection = try Self.negotiate(nodes(Self.queues(count, order: order)))
        let ports = (0..<count).map { EventPort(UInt32(10 + $0)) }
        #expect(connection.rings.map(\.port) == ports)
        #expect(connection.rings.allSatisfy { $0.references.count == 1 << (order ?? 0) })
    }

    @Test(arguments: ["0", "9", "4294967295"])
    func `no queues and too many are refused`(_ count: String) {
        #expect(Self.refused(Self.with(["multi-queue-num-queues": count])) == "multi-queue-num-queues")
    }

    @Test func `the offered number of queues is the bound`() {
        #expect(Self.refused(nodes(Self.queues(4)), ConnectionOffer(queues: 2)) == "multi-queue-num-queues")
        #expect(Self.refused(nodes(Self.queues(2)), ConnectionOffer(queues: 2)) == nil)
    }

    @Test func `flat keys do not serve several queues`() {
        #expect(Self.refused(Self.with(["multi-queue-num-queues": "2"])) == "queue-0/ring-ref")
    }

    @Test func `two queues on one event channel are refused`() {
        var texts = Self.queues(2)
        texts["queue-1/event-channel"] = texts["queue-0/event-channel"]
        #expect(Self.refused(nodes(texts)) == "queue-1/event-channel")
    }

    @Test func `two queues on one ring are refused`() {
        var texts = Self.queues(3)
        texts["queue-2/ring-ref"] = texts["queue-0/ring-ref"]
        #expect(Self.refused(nodes(texts)) == "queue-2/ring-ref")
    }

    @Test func `a page twice in one ring is refused`() {
        var texts = Self.queues(1, order: 2)
        texts["ring-ref3"] = texts["ring-ref0"]
        #expect(Self.refused(nodes(texts)) == "ring-ref3")
    }

    // MARK: features

    @Test(arguments: ["feature-persistent", "feature-large-sector-size"], ["", "2", "yes", "1\0", "01"])
    func `flags are 0 or 1`(_ key: String, _ text: String) {
        #expect(Self.refused(Self.with([key: text])) == key)
    }

    @Test(arguments: [("0", false), ("1", true), (nil, false)] as [(String?, Bool)], [true, false])
    func `persistent grants are used if both sides want it`(_ frontend: (String?, Bool), _ isOffered: Bool) throws {
        let keys = frontend.0.map { Self.with(["feature-persistent": $0]) } ?? Self.with([:])
        let connection = try Connection.negotiate(keys, ConnectionOffer(persistentGrants: isOffered))
        #expect(connection.persistentGrants == (frontend.1 && isOffered))
    }

    @Test func `frontends with large sectors get 512 bytes or nothing`() {
        let keys = Self.with(["feature-large-sector-size": "1"])
        #expect(Self.refused(keys) == nil)
        #expect(Self.refused(keys, ConnectionOffer(sectorSize: 4096)) == "feature-large-sector-size")
        let without = Self.with(["feature-large-sector-size": "0"])
        #expect(Self.refused(without, ConnectionOffer(sectorSize: 4096)) == nil)
    }

    // MARK: what is read and said

    @Test func `a refusal names key, value and rule, and stays short`() {
        #expect(throws: KeyRefusal.self) { try Self.negotiate(Self.with(["ring-page-order": "40"])) }
        do throws(KeyRefusal) {
            _ = try Self.negotiate(Self.with(["ring-page-order": "40"]))
        } catch {
            #expect(error.description == "ring-page-order '40': must be 0...4")
        }
        do throws(KeyRefusal) {
            _ = try Self.negotiate(Self.with(["ring-ref": String(repeating: "7", count: 3000)]))
        } catch {
            #expect(error.description.utf8.count < 200)
        }
        do throws(KeyRefusal) {
            _ = try Self.negotiate(Self.with(["ring-ref": nil]))
        } catch {
            #expect(error.description == "ring-ref missing: must be 0...4294967295")
        }
    }

    @Test(arguments: 1...8, [nil, 0, 1, 4] as [Int?])
    func `reading the fixed keys and those that follow from them is enough`(_ count: Int, _ order: Int?) throws {
        let all = nodes(Self.queues(count, order: order))
        var read = all.filter { Connection.fixedKeys.contains($0.key) }
        for key in Connection.ringKeys(after: read, Self.offer) { read[key] = all[key] }
        #expect(try Self.negotiate(read) == Self.negotiate(all))
    }

    @Test(arguments: [["ring-page-order": "40"], ["multi-queue-num-queues": "0"], ["multi-queue-num-queues": "900"]])
    func `nothing is read on the word of a bad key`(_ bad: [String: String?]) {
        #expect(Connection.ringKeys(after: Self.with(bad), Self.offer).isEmpty)
    }

    @Test func `at most so many keys are read as the largest shape has`() {
        let largest = nodes(["ring-page-order": "4", "multi-queue-num-queues": "8"])
        #expect(Connection.ringKeys(after: largest, Self.offer).count == 8 * 17)
    }

    @Test func `transport keys`() {
        let usual = ConnectionOffer().transportKeys
        let names = ["feature-max-indirect-segments", "multi-queue-max-queues", "max-ring-page-order"]
        #expect(usual.map(\.name) == names + ["feature-persistent"])
        #expect(usual.map(\.value) == ["256", "8", "4", "1"])
        let least = ConnectionOffer(
            queues: 0, ringPageOrder: -1, indirectSegments: 0, persistentGrants: false
        ).transportKeys
        #expect(least.map(\.name) == ["multi-queue-max-queues", "max-ring-page-order", "feature-persistent"])
        #expect(least.map(\.value) == ["1", "0", "0"])
        let most = ConnectionOffer(queues: 99, ringPageOrder: 99, indirectSegments: 99999)
        #expect(most.transportKeys.map(\.value) == ["4096", "8", "4", "1"])
    }
}
