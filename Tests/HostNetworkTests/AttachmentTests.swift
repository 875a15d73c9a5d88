import Descriptors
import Foundation
import NetFrames
import Tap
import Testing

@testable import HostNetwork

/// Real attachments: guests, the host and the outside world are network namespaces. Needs root.
@Suite(.enabled(if: Stage.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter, ip, nft and python3 are needed"))
struct AttachmentTests {
    @Test func `guests at a bridge talk, and a bridge of ours goes with its last port`() throws {
        let stage = try Stage()
        let before = try stage.configuration()
        var guests = try [5, 6].map { try Guest($0, on: stage.host) }
        for guest in guests { try stage.attach(guest, "bridge=xenbr7,create") }
        for (guest, last) in zip(guests, [5, 6]) { try guest.namespace.run("ip addr add 10.7.0.\(last)/24 dev eth0") }
        #expect(try talks(guests[0].namespace, guests[1].namespace, "10.7.0.6"))
        #expect(try stage.host.run("ip -o link show vif5.0").contains("link/ether fe:ff:ff:ff:ff:ff"))

        try stage.detach(guests[0])
        let link = try stage.host.run("ip -o link show vif5.0")
        #expect(!link.contains("master") && !link.contains("UP"))
        #expect(try stage.host.run("ip -o link show vif6.0").contains("master xenbr7"))
        try stage.detach(guests[1])
        #expect(try stage.host.attempt("ip link show xenbr7").status != 0)
        guests = []
        #expect(try stage.difference(from: before).isEmpty)
    }

    @Test func `a bridge of the host's own stays, and isolated ports reach its own ports only`() throws {
        let stage = try Stage()
        try stage.host.run(
            """
            ip link add br0 mtu 1400 type bridge forward_delay 0; ip addr add 10.7.0.1/24 dev br0; ip link set br0 up
            ip link add own0 mtu 1400 type veth peer name own1; ip link set own0 master br0 up; ip link set own1 up
            sleep 0.5
            """)
        let before = try stage.configuration()
        do {
            let guests = try [5, 6].map { try Guest($0, on: stage.host) }
            for (guest, last) in zip(guests, [5, 6]) {
                try stage.attach(guest, "bridge=br0,create,isolated")
                try guest.namespace.run("ip addr add 10.7.0.\(last)/24 dev eth0")
            }
            #expect(try stage.host.run("ip -o link show vif5.0; ip -o link show br0").contains("mtu 1400"))
            #expect(try !stage.host.run("ip -o link").contains("vif5.0: <NO-CARRIER"))
            #expect(try talks(guests[0].namespace, stage.host, "10.7.0.1"))
            #expect(try guests[0].namespace.attempt("ping -c 1 -W 1 10.7.0.6").status != 0)
            for guest in guests { try stage.detach(guest) }
        }
        #expect(try stage.difference(from: before).isEmpty)
    }

    @Test func `a bridge of ours into which the owner has put a port stays`() throws {
        let stage = try Stage()
        let guest = try Interface(5, on: stage.host)
        try stage.attach(guest, "bridge=xenbr7,create")
        try stage.host.run("ip link add own0 type veth peer name own1; ip link set own0 master xenbr7")
        try stage.detach(guest)
        #expect(try stage.host.run("ip -o link show own0").contains("master xenbr7"))
    }

    @Test func `a missing bridge is named, and nothing is left`() throws {
        let stage = try Stage()
        let guest = try Interface(5, on: stage.host)
        let before = try stage.configuration()
        #expect(throws: AttachmentError.missingBridge("nobr0")) { try stage.attach(guest, "bridge=nobr0") }
        #expect(throws: AttachmentError.noBridge("eth0")) { try stage.attach(guest, "bridge=eth0") }
        #expect(try stage.difference(from: before).isEmpty)
        #expect(!FileManager.default.fileExists(atPath: stage.directory + "/state/attachments"))
    }

    @Test func `routed guests talk with the outside and with each other by IPv4 and IPv6`() throws {
        let stage = try Stage()
        let before = try stage.configuration()
        do {
            let guests = try [5, 6].map { try Guest($0, on: stage.host) }
            try stage.attach(guests[0], "routed", ["192.0.2.50", "2001:db8:5::5"])
            try stage.attach(guests[1], "routed", ["198.51.100.0/28", "2001:db8:6::/64"])
            try stage.outside.run(
                "ip route add 198.51.100.0/28 via 192.0.2.1; ip -6 route add default via 2001:db8:1::1")
            // The first one has an address of the uplink's network: its neighbours out there find it through the host.
            try guests[0].namespace.run(
                "ip addr add 192.0.2.50/24 dev eth0; ip route add default via 192.0.2.1;"
                    + "ip addr add 2001:db8:5::5/128 dev eth0; ip -6 route add default via \(Self.linkLocal) dev eth0")
            try guests[1].namespace.run(
                "ip addr add 198.51.100.1/28 dev eth0; ip route add default via 192.0.2.1 dev eth0 onlink;"
                    + "ip addr add 2001:db8:6::1/64 dev eth0; ip -6 route add default via \(Self.linkLocal) dev eth0")
            for address in ["192.0.2.2", "2001:db8:1::2"] {
                for guest in guests { #expect(try talks(guest.namespace, stage.outside, address), "\(address)") }
            }
            for address in ["192.0.2.50", "2001:db8:5::5"] {
                #expect(try talks(stage.outside, guests[0].namespace, address), "\(address)")
                #expect(try talks(guests[1].namespace, guests[0].namespace, address), "\(address)")
            }
            #expect(try talks(stage.outside, guests[1].namespace, "198.51.100.1"))
            for guest in guests { try stage.detach(guest) }
            #expect(try !stage.host.run("ip route; ip -6 route").contains("vif"))
        }
        #expect(try stage.difference(from: before).isEmpty)
    }

    /// Of a TAP device, whose hardware address is fe:ff:ff:ff:ff:ff (RFC 4291, appendix A).
    private static let linkLocal = "fe80::fcff:ffff:feff:ffff"

    @Test func `an address belongs to one guest`() throws {
        let stage = try Stage()
        let guests = try [5, 6].map { try Interface($0, on: stage.host) }
        try stage.attach(guests[0], "routed", ["10.9.0.2"])
        let before = try stage.settledConfiguration()
        #expect {
            try stage.attach(guests[1], "routed", ["10.9.0.3", "10.9.0.0/29"])
        } throws: { "\($0)" == "vif-6-0 cannot have address 10.9.0.0/29: vif-5-0 has it" }
        #expect(try stage.difference(from: before).isEmpty)
        // When the first one is gone it is free, whoever has undone that.
        try stage.host.run("ip link delete vif5.0")
        try stage.attach(guests[1], "routed", ["10.9.0.2"])
    }

    @Test func `guests behind the host's address reach the outside and each other, and are not reached`() throws {
        let stage = try Stage()
        let (before, own) = (try stage.configuration(), try stage.ownRules())
        do {
            let guests = try [5, 6].map { try Guest($0, on: stage.host) }
            for (guest, last) in zip(guests, [5, 6]) {
                try stage.attach(guest, "nat=10.88.0.0/24", ["10.88.0.\(last)"])
                try guest.namespace.run(
                    "ip addr add 10.88.0.\(last)/24 dev eth0; ip route add default via 10.88.0.1")
            }
            // Nobody out there knows a way back to the guests.
            for guest in guests { #expect(try talks(guest.namespace, stage.outside, "192.0.2.2")) }
            #expect(try talks(guests[0].namespace, guests[1].namespace, "10.88.0.6"))
            try stage.outside.run("ip route add 10.88.0.0/24 via 192.0.2.1")
            #expect(try stage.outside.attempt("ping -c 1 -W 1 10.88.0.5").status != 0)
            #expect(try stage.ownRules() == own)

            try stage.detach(guests[0])
            #expect(try !stage.host.run("nft list table ip xen_netbackd").contains("10.88.0.5"))
            #expect(try talks(guests[1].namespace, stage.outside, "192.0.2.2"))
            try stage.detach(guests[1])
            #expect(try stage.host.attempt("nft list table ip xen_netbackd").status != 0)
        }
        #expect(try stage.difference(from: before).isEmpty)
    }

    @Test func `one of them is reached where the host's owner says so`() throws {
        let stage = try Stage()
        let guests = try [5, 6].map { try Guest($0, on: stage.host) }
        for (guest, last) in zip(guests, [5, 6]) {
            try stage.attach(guest, "nat=10.88.0.0/24", ["10.88.0.\(last)"])
            try guest.namespace.run("ip addr add 10.88.0.\(last)/24 dev eth0; ip route add default via 10.88.0.1")
        }
        // docs/network-attachment.md
        try stage.host.run(
            """
            nft -f - <<'END'
            table ip dmz {
                chain prerouting {
                    type nat hook prerouting priority dstnat;
                    iifname "eth0" ip daddr 192.0.2.1 meta l4proto { icmp, tcp, udp } dnat to 10.88.0.5
                }
            }
            END
            """)
        #expect(try talks(stage.outside, guests[0].namespace, "192.0.2.1"))
        try stage.outside.run("ip route add 10.88.0.0/24 via 192.0.2.1")
        for last in [5, 6] { #expect(try stage.outside.attempt("ping -c 1 -W 1 10.88.0.\(last)").status != 0) }
    }

    @Test func `dnsmasq gives a guest behind the host's address what it needs`() throws {
        let stage = try Stage()
        let guest = try Guest(5, on: stage.host)
        try stage.attach(guest, "nat=10.88.0.0/24", ["10.88.0.5"])
        let configuration = try DHCPRecipe(in: stage.directory)
        try stage.host.run("dnsmasq --conf-file=\(configuration.path) --pid-file=\(stage.directory)/dnsmasq.pid")
        defer { _ = try? stage.host.run("kill $(cat \(stage.directory)/dnsmasq.pid)") }
        let lease = try guest.namespace.run("python3 - <<'END'\n\(DHCPRecipe.client)\nEND")
        #expect(lease == "10.88.0.5 255.255.255.0 10.88.0.1\n")
    }

    @Test func `all modes live together, and each is undone alone`() throws {
        let stage = try Stage()
        let before = try stage.configuration()
        let modes = [("bridge=xenbr7,create", []), ("routed", ["10.9.0.2"]), ("nat=10.88.0.0/24", ["10.88.0.7"])]
        var guests = try [5, 6, 7].map { try Guest($0, on: stage.host) }
        for (guest, mode) in zip(guests, modes) { try stage.attach(guest, mode.0, mode.1) }
        try guests[1].namespace.run(
            "ip addr add 10.9.0.2/32 dev eth0; ip route add default via 192.0.2.1 dev eth0 onlink")
        try guests[2].namespace.run("ip addr add 10.88.0.7/24 dev eth0; ip route add default via 10.88.0.1")
        try stage.outside.run("ip route add 10.9.0.2 via 192.0.2.1")
        #expect(try talks(guests[1].namespace, stage.outside, "192.0.2.2"))
        // Both need the uplink to forward.
        try stage.detach(guests[1])
        #expect(try talks(guests[2].namespace, stage.outside, "192.0.2.2"))
        try stage.detach(guests[0])
        try stage.detach(guests[2])
        try stage.detach(guests[2])
        guests = []
        #expect(try stage.difference(from: before).isEmpty)
    }

    static let everything = [
        ("bridge=xenbr7,create,isolated", []), ("routed", ["192.0.2.50", "2001:db8:1::50", "10.9.0.0/24"]),
        ("nat=10.88.0.0/24", ["10.88.0.5"]),
    ]

    /// As if the process had been killed after each step: the ledger says more than was done.
    @Test(arguments: everything)
    func `whatever was done, the next one goes on or undoes it`(mode: String, addresses: [String]) throws {
        let stage = try Stage()
        let before = try stage.configuration()
        let request = AttachmentRequest(
            try #require(AttachmentMode(mode)), addresses: addresses.compactMap { AddressRange($0) }, uplink: nil)
        for count in 0..<20 {
            var guest: Interface? = try Interface(5, on: stage.host)
            let device = try #require(guest).device
            let index = try #require(guest).tap.index
            let isWhole = try stage.host.inside {
                let session = try Session(stage.network.directory)
                let entry = try session.note(device, index, request)
                for change in entry.changes.prefix(count) { try session.make(change, for: entry, isAgain: false) }
                return count >= entry.changes.count
            }
            if count % 2 == 0 { try stage.host.inside { try stage.network.attach(device, index: index, request) } }
            guest = nil
            try stage.waitUntilGone("vif5.0")
            #expect(try stage.recover() == [device])
            #expect(try stage.difference(from: before).isEmpty, "after \(count) steps")
            if isWhole { return }
        }
        Issue.record("more than twenty steps")
    }

    @Test func `an interface whose guest went while nobody served it goes as well`() throws {
        let stage = try Stage()
        let before = try stage.configuration()
        do {
            let guests = try [5, 6].map { try Interface($0, on: stage.host) }
            for guest in guests { try guest.tap.setPersistent(true) }
            try stage.attach(guests[0], "nat=10.88.0.0/24", ["10.88.0.5"])
            try stage.attach(guests[1], "bridge=xenbr7,create")
        }
        #expect(try stage.host.run("ip -o link").contains("vif5.0"))
        #expect(try stage.recover { $0 == "vif-5-0" } == ["vif-5-0"])
        #expect(try !stage.host.run("ip -o link").contains("vif5.0"))
        #expect(try stage.host.run("ip -o link show vif6.0").contains("master xenbr7"))
        #expect(try stage.recover { _ in true } == ["vif-6-0"])
        #expect(try stage.recover { _ in true } == [])
        #expect(try stage.difference(from: before).isEmpty)
    }

    @Test func `what the owner has changed meanwhile stays`() throws {
        let stage = try Stage()
        let guest = try Interface(5, on: stage.host)
        try stage.host.run("ip link add br0 type bridge; ip link add br1 type bridge")
        try stage.attach(guest, "bridge=br0")
        try stage.host.run("ip link set vif5.0 master br1")
        try stage.detach(guest)
        #expect(try stage.host.run("ip -o link show vif5.0").contains("master br1"))
    }

    @Test func `without the right to change the network it says so`() throws {
        #expect(
            "\(AttachmentError(Fault("vif5.0: up", errno: EPERM)))"
                == "vif5.0: up: not permitted, CAP_NET_ADMIN is missing")
    }
}

/// The configuration that docs/network-attachment.md gives, and a client that asks for an address once.
struct DHCPRecipe {
    let path: String

    init(in directory: String) throws {
        path = directory + "/dnsmasq.conf"
        let repository = URL(fileURLWithPath: #filePath).appendingPathComponent("../../..").standardized
        let document = try String(
            contentsOf: repository.appendingPathComponent("docs/network-attachment.md"), encoding: .utf8)
        let recipe = try #require(document.components(separatedBy: "```dnsmasq\n").dropFirst().first)
        let text = try #require(recipe.components(separatedBy: "```").first)
        try (text + "dhcp-leasefile=\(directory)/leases\nuser=root\n").write(
            toFile: path, atomically: true, encoding: .utf8)
    }

    static let client = """
        import socket, struct
        mac = bytes.fromhex('00163e000005')
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0'); s.bind(('0.0.0.0', 68))
        def message(options):
            head = struct.pack('!BBBBIHH16s16s192sI', 1, 1, 6, 0, 7, 0, 0x8000, b'', mac, b'', 0x63825363)
            return head + options + b'\\xff'
        def ask(options):
            for attempt in range(8):
                s.sendto(message(options), ('255.255.255.255', 67))
                try: return s.recv(2048)
                except TimeoutError: pass
        def parsed(answer):
            found, rest = {}, answer[240:]
            while rest and rest[0] != 255:
                if rest[0] == 0: rest = rest[1:]; continue
                found[rest[0]] = rest[2:2 + rest[1]]; rest = rest[2 + rest[1]:]
            return found
        offer = ask(b'\\x35\\x01\\x01'); address = offer[16:20]
        answer = ask(b'\\x35\\x01\\x03' + b'\\x32\\x04' + address + b'\\x36\\x04' + parsed(offer)[54])
        options = parsed(answer)
        assert options[53] == b'\\x05'
        print(*[socket.inet_ntoa(x[:4]) for x in (answer[16:20], options[1], options[3])])
        """
}
