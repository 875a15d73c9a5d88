import CLinux
import CNamespace
import Descriptors
import Foundation
import Glibc
import HostNetwork
import Loopback
import NetFrames
import Synchronization
import Tap
import Testing

/// A network namespace that lives as long as the value.
final class Namespace {
    private let holder: ChildProcess

    init() throws {
        holder = try ChildProcess("/usr/bin/unshare", ["--net", "/usr/bin/sleep", "300"])
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/thread-self/ns/net")
        for _ in 0..<1000 where (try? FileManager.default.destinationOfSymbolicLink(atPath: path)) == own {
            usleep(5000)
        }
    }

    var path: String { "/proc/\(holder.identifier)/ns/net" }
    var identifier: Int32 { holder.identifier }

    /// Takes this thread there for a while.
    func inside<Value>(_ body: () throws -> Value) throws -> Value {
        let here = try OwnedDescriptor(namespace_here(), "find the namespace")
        let there = try OwnedDescriptor(unsafe linux_open(path, O_RDONLY, 0), "open \(path)")
        try #require(namespace_enter(there.number) == 0)
        defer { _ = namespace_enter(here.number) }
        return try body()
    }

    /// A shell's output.
    @discardableResult
    func run(_ script: String) throws -> String {
        let (status, text) = try attempt(script)
        try #require(status == 0, "\(script): \(text)")
        return text
    }

    func attempt(_ script: String) throws -> (status: Int32, text: String) {
        let output = Pipe()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/nsenter")
        process.arguments = ["--net=\(path)", "/bin/sh", "-c", "PATH=/usr/sbin:/usr/bin:/sbin:/bin; \(script)"]
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }
}

/// Carries frames between two TAP devices until it goes: the guest's kernel is at one, the host at the other.
final class Cable {
    private let cut = Cut()
    private var threads: [JoinableThread] = []

    func connect(_ first: TapDevice, _ second: TapDevice) throws {
        for (source, sink) in [(first, second), (second, first)] {
            threads.append(
                try JoinableThread(name: "cable") { [cut] in
                    Self.carry(source.queues[0].number, sink.queues[0].number, cut)
                })
        }
    }

    private final class Cut: Sendable { let isCut = Atomic(false) }

    private static func carry(_ source: Int32, _ sink: Int32, _ cut: Cut) {
        var buffer = [UInt8](repeating: 0, count: 70_000)
        while !cut.isCut.load(ordering: .relaxed) {
            // The array is as large as is said.
            let count = unsafe linux_frame_read(source, &buffer, buffer.count)
            if count > 0 { _ = unsafe linux_frame_write(sink, buffer, count) } else { usleep(200) }
        }
    }

    deinit {
        cut.isCut.store(true, ordering: .relaxed)
        for thread in threads { thread.join() }
    }
}

/// A TAP device of the host's, with nobody at its other end.
class Interface {
    let device: String
    let tap: TapDevice

    init(_ domain: Int, on host: Namespace) throws {
        device = "vif-\(domain)-0"
        tap = try host.inside { try TapDevice("vif\(domain).0", queues: 1) }
    }
}

/// A guest: a namespace with an interface that leads to a TAP device of the host's.
final class Guest: Interface {
    let namespace: Namespace
    private let far: TapDevice
    private let cable: Cable

    override init(_ domain: Int, on host: Namespace) throws {
        namespace = try Namespace()
        far = try namespace.inside { try TapDevice("eth0", queues: 1) }
        cable = Cable()
        try super.init(domain, on: host)
        for end in [tap, far] {
            try end.setOffloads([.checksum, .segmentationV4, .segmentationV6])
            try end.setCarrier(true)
        }
        try cable.connect(tap, far)
        try namespace.run(
            """
            sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
            ip link set lo up; ip link set eth0 address 00:16:3e:00:00:\(String(format: "%02x", domain)) up
            """)
    }
}

/// A host between guests and the outside world: `eth0` leads there, and is where the default routes lead.
final class Stage {
    let host: Namespace
    let outside: Namespace
    let network: HostNetwork
    let directory: String

    static var isPossible: Bool {
        geteuid() == 0 && FileManager.default.isWritableFile(atPath: "/dev/net/tun")
            && [
                "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/sbin/ip", "/usr/sbin/nft", "/usr/bin/python3",
                "/usr/bin/ping", "/usr/sbin/dnsmasq", "/usr/sbin/sysctl",
            ].allSatisfy {
                FileManager.default.isExecutableFile(atPath: $0)
            }
    }

    init() throws {
        var template = Array("/tmp/xen-attach-XXXXXX".utf8CString)
        directory = try unsafe String(cString: #require(mkdtemp(&template)))
        network = HostNetwork(directory: directory + "/state")
        host = try Namespace()
        outside = try Namespace()
        let quiet = "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ip link set lo up"
        try outside.run(quiet)
        try host.run(
            """
            \(quiet); ip link add eth0 type veth peer name eth0 netns \(outside.identifier)
            ip addr add 192.0.2.1/24 dev eth0; ip addr add 2001:db8:1::1/64 dev eth0; ip link set eth0 up
            """)
        try outside.run(
            "ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0; ip link set eth0 up")
        try host.run(
            """
            ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8:1::2
            nft add table inet own; nft 'add chain inet own input { type filter hook input priority 0; policy accept; }'
            nft add rule inet own input tcp dport 23 drop
            nft add table ip nat; nft 'add chain ip nat postrouting { type nat hook postrouting priority 100; }'
            nft add rule ip nat postrouting ip saddr 198.51.100.7 masquerade
            """)
        for _ in 0..<100 where try !host.run("ip -6 addr show dev eth0").contains("inet6 fe80") { usleep(20_000) }
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    func attach(_ guest: Interface, _ mode: String, _ addresses: [String] = [], uplink: String? = nil) throws {
        let request = AttachmentRequest(
            try #require(AttachmentMode(mode)), addresses: try addresses.map { try #require(AddressRange($0)) },
            uplink: uplink)
        try host.inside { try network.attach(guest.device, index: guest.tap.index, request) }
    }

    func detach(_ guest: Interface) throws { try host.inside { try network.detach(guest.device) } }

    func recover(_ isGone: (String) -> Bool = { _ in false }) throws -> [String] {
        try host.inside { try network.recover(isGone: isGone) }
    }

    /// Everything that an attachment could leave behind. Interfaces of guests are left out.
    func configuration() throws -> String {
        try host.run(
            """
            ip -j link | python3 -c 'import json, sys
            for link in json.load(sys.stdin): print(link["ifname"], link["flags"], link["mtu"], link.get("master"))'
            ip -j addr | python3 -c 'import json, sys
            for link in json.load(sys.stdin):
                for a in link["addr_info"]: print(link["ifname"], a["local"], a["prefixlen"])'
            ip -j route show table all; ip -j -6 route show table all; ip -j neigh show proxy; ip -j -6 neigh show proxy
            nft list ruleset
            cd /proc/sys/net; grep . ipv4/ip_forward ipv[46]/conf/*/*forwarding ipv4/conf/*/proxy_arp ipv6/conf/*/proxy_ndp
            """)
    }

    /// Once an interface that has just come up has got its own addresses: after two seconds without a change.
    func settledConfiguration() throws -> String {
        var (settled, since) = (try configuration(), 0)
        for _ in 0..<100 where since < 20 {
            usleep(100_000)
            let now = try configuration()
            since = now == settled ? since + 1 : 0
            settled = now
        }
        return settled
    }

    /// Lines that were not there before, and that are no longer. What the kernel does by itself takes a moment.
    func difference(from before: String) throws -> [String] {
        let old = before.split(separator: "\n").map(String.init)
        var difference: [String] = []
        for _ in 0..<50 {
            let new = try configuration().split(separator: "\n").map(String.init)
            difference = new.difference(from: old).map { "\($0)" }
            if difference.isEmpty { break }
            usleep(100_000)
        }
        return difference
    }

    /// A child that another test is just starting may have the descriptor of a TAP device a moment longer than we.
    func waitUntilGone(_ interface: String) throws {
        for _ in 0..<100 where try host.attempt("ip link show \(interface)").status == 0 { usleep(20_000) }
    }

    /// The rules that were there first.
    func ownRules() throws -> String { try host.run("nft list table inet own; nft list table ip nat") }
}

/// Whether `from` reaches an address by ping, UDP and TCP; `to` answers.
func talks(_ from: Namespace, _ to: Namespace, _ address: String) throws -> Bool {
    let family = address.contains(":") ? "AF_INET6" : "AF_INET"
    guard try from.attempt("ping -c 1 -W 2 -i 0.2 \(address)").status == 0 else { return false }
    let server = try ChildProcess(
        "/usr/bin/nsenter", ["--net=\(to.path)", "/usr/bin/python3", "-c", echoServer(family)])
    defer { server.kill() }
    let client = """
        python3 - <<'END'
        import socket, time
        def attempt(kind):
            s = socket.socket(socket.\(family), kind); s.settimeout(2); s.connect(('\(address)', 7))
            data = b'x' * (100000 if kind == socket.SOCK_STREAM else 1000)
            s.sendall(data); got = b''
            while len(got) < len(data): got += s.recv(65536) or exit(1)
            assert got == data
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for n in range(20):
                try: attempt(kind); break
                except OSError: time.sleep(0.1)
            else: exit(1)
        END
        """
    return try from.attempt(client).status == 0
}

private func echoServer(_ family: String) -> String {
    """
    import socket, threading
    u = socket.socket(socket.\(family), socket.SOCK_DGRAM); u.bind(('', 7))
    t = socket.socket(socket.\(family), socket.SOCK_STREAM); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    t.bind(('', 7)); t.listen()
    def datagrams():
        while True: d, a = u.recvfrom(65536); u.sendto(d, a)
    threading.Thread(target=datagrams, daemon=True).start()
    def echo(c):
        while d := c.recv(65536): c.sendall(d)
    while True: c, _ = t.accept(); threading.Thread(target=echo, args=(c,), daemon=True).start()
    """
}
