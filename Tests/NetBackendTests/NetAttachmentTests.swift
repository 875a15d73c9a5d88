import HostNetwork
import NetFrames
import Testing
import Xenbus
import Xenstore

@testable import NetBackend

struct NetAttachmentKeyTests {
    private func request(_ texts: [String: String], _ mode: String? = nil) throws(KeyRefusal) -> AttachmentRequest? {
        let attachment = NetAttachment(
            HostNetwork(directory: "/nonexistent"), unlessSaid: mode.flatMap(AttachmentMode.init))
        return try attachment.request(texts.mapValues { XenstoreValue(Array($0.utf8)) })
    }

    @Test func `with a script nobody else attaches, except with ours`() throws {
        #expect(try request(["script": "/etc/xen/scripts/vif-bridge"], "routed") == nil)
        #expect(try request(["script": ""], "bridge=br0") == nil)
        #expect(try request(["script": "/etc/xen/scripts/vif-xen-netbackd"], "bridge=br0") != nil)
        #expect(try request([:], "bridge=br0") != nil)
        #expect(try request([:]) == nil)
    }

    @Test func `the node wins over the option`() throws {
        #expect(try request(["attach": "none"], "routed") == nil)
        let translated = try #require(AttachmentMode("nat=10.0.0.0/24"))
        let addresses = ["10.0.0.5"].compactMap { AddressRange($0) }
        #expect(
            try request(["attach": "nat=10.0.0.0/24", "ip": "10.0.0.5", "gatewaydev": "eth1"], "routed")
                == AttachmentRequest(translated, addresses: addresses, uplink: "eth1"))
        #expect(
            try request(["bridge": "br1", "ip": "what a script understands"], "bridge=br0,isolated")
                == AttachmentRequest(
                    .bridge("br1", isCreated: false, isIsolated: true), addresses: [], uplink: nil))
        #expect(
            try request(["bridge": "br1", "gatewaydev": "", "ip": "fd00::/64"], "routed")
                == AttachmentRequest(.routed, addresses: ["fd00::/64"].compactMap { AddressRange($0) }, uplink: nil))
    }

    @Test(arguments: [
        ("attach", "bridge"), ("attach", ""), ("attach", "\u{0}"), ("bridge", "a b"), ("bridge", "../x"),
        ("bridge", "a-name-that-is-too-long"), ("ip", "10.0.0"), ("gatewaydev", "a/b"),
    ])
    func `what cannot be is named`(key: String, value: String) {
        do throws(KeyRefusal) {
            _ = try request([key: value], "routed")
            if key == "bridge" { _ = try request([key: value], "bridge=br0") }
            Issue.record("\(key) '\(value)' was taken")
        } catch {
            #expect(error.key == key)
        }
    }
}
