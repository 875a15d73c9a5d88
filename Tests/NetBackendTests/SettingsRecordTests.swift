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

    @Test func `what held is read back, and means the same`() throws {
        let read = SettingsRecord.nodes(in: SettingsRecord.text(Self.nodes))
        #expect(read == Self.nodes)
        let (was, now) = (
            try InterfaceSettings(Self.nodes, filters: false), try InterfaceSettings(read, filters: false)
        )
        #expect(now.mtu == was.mtu && now.rate == was.rate && now.filter != nil)
    }

    @Test(arguments: ["", "\n\n", "mac", "mac\n", "\0\u{7F}"])
    func `what says nothing says nothing`(text: String) {
        #expect(SettingsRecord.nodes(in: text).isEmpty)
    }

    /// A record that somebody has written to is judged as xenstore's nodes are.
    @Test(arguments: ["rate much", "mac x", "mtu -1\nrate 1,1", "ip 10.0.0.1\nip 1 2 3", "filter  1"])
    func `what is wrong is refused`(text: String) {
        #expect(throws: KeyRefusal.self) {
            try InterfaceSettings(SettingsRecord.nodes(in: text), filters: true)
        }
    }
}
