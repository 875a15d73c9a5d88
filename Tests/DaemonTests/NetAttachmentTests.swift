import Descriptors
import Foundation
import Loopback
import Testing

/// The real xen-netbackd attaches interfaces itself. Needs root, for the namespace.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetAttachmentTests {
    private func ledger(_ world: NetWorld) -> String? {
        try? String(contentsOfFile: world.base.directory + "/state/attachments", encoding: .utf8)
    }

    private func links(_ world: NetWorld) throws -> String { try world.inNamespace("ip -o link") }

    /// Until the interface closes with an error.
    private func failure(_ world: NetWorld) throws -> String? {
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        #expect(try world.base.wait(NetWorld.back("hotplug-status"), "error"))
        let reason = try world.base.read(NetWorld.back("hotplug-error"))
        #expect(try world.base.wait(NetWorld.back("error"), reason))
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        #expect(ledger(world)?.isEmpty ?? true)
        return reason
    }

    @Test func `a guest behind the host's address is attached before it is connected`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon(["--attach", "nat=10.9.0.0/24"])
        try world.createInterface([NetWorld.back("ip"): "10.9.0.2"])
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try world.base.read(NetWorld.back("hotplug-status")) == "connected")
        let host = try #require(try world.resolve(front))
        #expect(try world.ping(front, host, payload: 100) != nil)
        #expect(try world.inNamespace("ip route").contains("10.9.0.2 dev vif5.0"))

        try world.base.write([NetWorld.back("online"): "0", NetWorld.back("state"): "5", NetWorld.front("state"): "6"])
        #expect(try world.base.wait(NetWorld.back("state"), "6"))
        #expect(ledger(world) == "")
        try world.base.remove("/local/domain/0/backend/vif/5")
        #expect(daemon.wait() == .exited(0))
        // The kernel takes a process's io_uring apart after its end, and the ring knows the device's file.
        #expect(try world.base.eventually { try !links(world).contains("vif5.0") })
    }

    @Test func `a node chooses, and a new process finds the interface attached`() throws {
        let world = try NetWorld()
        let first = try world.startDaemon(["--attach", "routed"])
        try world.createInterface([NetWorld.back("attach"): "bridge=xx,create", NetWorld.back("bridge"): "xenbr5"])
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try links(world).contains("master xenbr5"))
        first.signal(SIGTERM)
        #expect(first.wait() == .exited(0))
        #expect(try links(world).contains("master xenbr5"))
        let second = try world.startDaemon()
        #expect(try world.base.eventually { try world.inNamespace("ip -o link show vif5.0").contains("LOWER_UP") })
        try world.base.write([NetWorld.back("online"): "0", NetWorld.back("state"): "5", NetWorld.front("state"): "6"])
        #expect(try world.base.wait(NetWorld.back("state"), "6"))
        #expect(try !links(world).contains("xenbr5"))
        second.kill()
    }

    @Test(arguments: [5, 6])
    func `what a killed process leaves of an interface that is gone, the next one undoes`(domain: Int) throws {
        let world = try NetWorld()
        let first = try world.startDaemon(["--attach", "bridge=xenbr5,create"])
        try world.createInterface([:])
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        first.kill()
        _ = first.wait()
        #expect(try links(world).contains("xenbr5"))
        // Its nodes are there, so it is somebody's.
        let idle = try world.startDaemon(domain: 6)
        usleep(300_000)
        idle.kill()
        _ = idle.wait()
        #expect(try links(world).contains("vif5.0"))
        try world.base.remove("/local/domain/0/backend/vif/5")
        let second = try world.startDaemon(domain: domain)
        #expect(try world.base.eventually { try !links(world).contains("vif5.0") })
        #expect(try !links(world).contains("xenbr5"))
        #expect(ledger(world) == "")
        second.kill()
    }

    @Test func `an interface with a script is the script's`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon(["--attach", "bridge=xenbr5,create"])
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        try world.plugIn()
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try !links(world).contains("xenbr5"))
        daemon.kill()
    }

    @Test func `the script of ours leaves the interface to the daemon`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon(["--attach", "bridge=xx,create"])
        try world.createInterface([
            NetWorld.back("script"): "/etc/xen/scripts/vif-xen-netbackd", NetWorld.back("hotplug-status"): "",
            NetWorld.back("bridge"): "xenbr5",
        ])
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        let front = try world.connect()
        defer { withExtendedLifetime(front) {} }
        try world.plugIn()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try links(world).contains("master xenbr5"))
        daemon.kill()
    }

    @Test(arguments: [
        ("bridge=nobr0", "", "bridge nobr0 does not exist"),
        ("routed", "", "ip missing: routed needs the guest's addresses"),
        ("nat=10.9.0.0/24", "10.8.0.1", "ip 10.8.0.1: nat=10.9.0.0/24 takes one IPv4 address of it, not the first"),
        ("routed", "127.0.0.1", "vif-5-0 cannot have address 127.0.0.1: lo has it"),
        ("bridges", "", "attach 'bridges': must be none, bridge=NAME[,create][,isolated], routed or nat=SUBNET"),
    ])
    func `what cannot be attached is named, and nothing is left`(mode: String, address: String, reason: String) throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon()
        _ = try world.inNamespace("ip link set lo up")
        var nodes = [NetWorld.back("attach"): mode]
        if !address.isEmpty { nodes[NetWorld.back("ip")] = address }
        try world.createInterface(nodes)
        #expect(try failure(world) == reason)
        daemon.kill()
    }

    @Test func `a name that is taken is named`() throws {
        let world = try NetWorld()
        _ = try world.inNamespace("ip link add vif5.0 type bridge")
        let daemon = try world.startDaemon(["--attach", "bridge=vif5.0"])
        try world.createInterface([:])
        #expect(
            try failure(world) == "make TAP device vif5.0, which is another interface's name: Invalid argument")
        daemon.kill()
    }

    @Test(arguments: [
        (
            ["/usr/bin/setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
            "make TAP device vif5.0, which takes CAP_NET_ADMIN: Operation not permitted"
        ),
        (
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"],
            "open /dev/net/tun for TAP device vif5.0: No such file or directory"
        ),
    ])
    func `without what it takes, that is named`(wrapper: [String], reason: String) throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon(["--attach", "bridge=xenbr5,create"], by: wrapper)
        try world.createInterface([:])
        #expect(try failure(world) == reason)
        #expect(try !links(world).contains("xenbr5"))
        daemon.kill()
    }
}
