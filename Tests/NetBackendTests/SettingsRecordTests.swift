import SharedRing
import Testing
import Xenbus
import Xenstore

@testable import NetBackend

struct SettingsRecordTests {
    private static let nodes = NodeValues(
        uniqueKeysWithValues: [
            ("mac", "00:16:3e:00:00:05"), ("ip", "10.0.0.1 fe80::/10"), ("rate", "10000,50000"), ("filter", "1"),
            ("mtu", "1500"),
        ].map { ($0, XenstoreValue(Array($1.utf8))) })

    private static let guest = JournalIdentity([.init("boot", "b00t"), .init("domain", "/vm/a b")])
    private static let marks = "/boot b00t\n/domain /vm/a b\n"

    @Test func `what held is read back, and means the same`() throws {
        let text = SettingsRecord.text(Self.nodes, of: Self.guest)
        let read = try #require(SettingsRecord.nodes(in: text, of: Self.guest))
        #expect(read == Self.nodes)
        let (was, now) = (
            try InterfaceSettings(Self.nodes, filters: false), try InterfaceSettings(read, filters: false)
        )
        #expect(now.mtu == was.mtu && now.rate == was.rate && now.filter != nil)
    }

    @Test(arguments: ["", "\n\n", "mac", "mac\n", "\0\u{7F}"])
    func `what says nothing says nothing`(text: String) {
        #expect(SettingsRecord.nodes(in: Self.marks + text, of: Self.guest) == [:])
        #expect(SettingsRecord.nodes(in: text, of: Self.guest) == nil)
    }

    @Test func `what held for another guest does not hold for this one`() {
        let text = SettingsRecord.text(Self.nodes, of: Self.guest)
        for other in [("b00t", "/vm/a"), ("0ther", "/vm/a b")] {
            let guest = JournalIdentity([.init("boot", other.0), .init("domain", other.1)])
            #expect(SettingsRecord.nodes(in: text, of: guest) == nil)
        }
    }

    /// A record that somebody has written to is judged as xenstore's nodes are.
    @Test(arguments: ["rate much", "mac x", "mtu -1\nrate 1,1", "ip 10.0.0.1\nip 1 2 3", "filter  1"])
    func `what is wrong is refused`(text: String) {
        #expect(throws: KeyRefusal.self) {
            let nodes = try #require(SettingsRecord.nodes(in: Self.marks + text, of: Self.guest))
            _ = try InterfaceSettings(nodes, filters: true)
        }
    }
}
