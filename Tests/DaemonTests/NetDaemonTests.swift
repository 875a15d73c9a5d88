import CXen
import Descriptors
import Foundation
import Loopback
import Testing
import XenWire
import Xenstore

/// The real xen-netbackd with a TAP device in a network namespace of its own, and the host's network behind it: the guest
/// here is made of frames. Needs root, for the namespace.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetDaemonTests {
    @Test func `an interface is there before state 2, and the guest talks with the host`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        let link = try world.inNamespace("ip -o link show vif5.0")
        #expect(link.contains("fe:ff:ff:ff:ff:ff") && !link.contains("UP"))
        _ = try world.inNamespace("ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up")
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try world.base.read(NetWorld.back("carrier")) == "1")

        let host = try #require(try world.resolve(front))
        #expect(host == [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])
        for size in [8, 56, 1400] {
            let answer = try world.ping(front, host, payload: size)
            #expect(
                answer?.dropFirst(14 + 28).elementsEqual((0..<size).map { UInt8(truncatingIfNeeded: $0) }) == true,
                "\(size)")
        }
        #expect(front.statuses.keys.allSatisfy { $0 == 0 })
        daemon.kill()
    }

    @Test func `MTU and rate are what their keys say, the rate while it runs`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon()
        try world.createInterface()
        try world.base.write([NetWorld.back("mtu"): "9000"])
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace("ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up")
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try world.inNamespace("ip -o link show vif5.0").contains("mtu 9000"))
        let host = try #require(try world.resolve(front))
        #expect(try world.ping(front, host, payload: 100) != nil)
        // A byte an hour: what passes is a burst of 128 KiB.
        try world.base.write([NetWorld.back("rate"): "1,4294967295"])
        var passed = 0
        while passed < 200, try world.ping(front, host, payload: 1400, seconds: 10) != nil { passed += 1 }
        #expect(passed > 20 && passed < 100)
        try world.base.remove(NetWorld.back("rate"))
        // By asking, the host learns where the guest is: it may have asked in vain meanwhile.
        #expect(try world.resolve(front) == host)
        #expect(try world.ping(front, host, payload: 1400) != nil)
        daemon.kill()
    }

    @Test func `the interface goes with its nodes, and the daemon with the last one`() throws {
        let world = try NetWorld()
        let daemon = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        try world.base.write([NetWorld.back("online"): "0", NetWorld.back("state"): "5"])
        #expect(try world.base.wait(NetWorld.back("state"), "6"))
        try world.base.remove("/local/domain/0/backend/vif/5")
        #expect(daemon.wait() == .exited(0))
        // The kernel takes a process's io_uring apart after its end, and the ring knows the device's file.
        #expect(
            try world.base.eventually {
                try world.inNamespace("ip -o link show | grep -c vif || true").hasPrefix("0")
            })
    }

    @Test func `a daemon that is told to end leaves the interface connected, and the next one goes on`() throws {
        let world = try NetWorld()
        let first = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace("ip addr add 10.9.0.1/24 dev vif5.0 && ip link set vif5.0 up")
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let host = try #require(try world.resolve(front))
        first.signal(SIGTERM)
        #expect(first.wait() == .exited(0))
        #expect(try world.base.read(NetWorld.back("state")) == "4")
        let second = try world.startDaemon()
        // The address is still on it: it is the same interface. The host has forgotten its neighbours, for a TAP device
        // without a process has no carrier.
        #expect(try world.resolve(front) == host)
        #expect(try world.ping(front, host, payload: 100) != nil)
        second.kill()
    }

    /// Of these nodes no watch tells, so the next process is the first to see them.
    @Test func `more queues than the device has are refused, and the daemon goes on`() throws {
        let world = try NetWorld()
        let first = try world.startDaemon(["--max-queues", "1"])
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        first.kill()
        _ = first.wait()
        let names = ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx"]
        var nodes = [NetWorld.front("multi-queue-num-queues"): "2"]
        for (index, name) in names.enumerated() {
            nodes[NetWorld.front("queue-0/\(name)")] = try world.base.read(NetWorld.front(name))
            nodes[NetWorld.front("queue-1/\(name)")] = "\(900 + index)"
        }
        try world.base.write(nodes)
        let second = try world.startDaemon(["--max-queues", "1"])
        #expect(try world.base.wait(NetWorld.back("state"), "5"))
        #expect(try world.base.read(NetWorld.back("error"))?.contains("must be 1...1") == true)
        #expect(second.ended == nil)
        withExtendedLifetime(front) {}
        second.kill()
    }

    /// What a script has done is not done again: libxl runs it once.
    @Test(arguments: ["2", "5", "6"])
    func `a daemon that is told to end leaves the TAP device of an interface that is not connected`(
        state: String
    ) throws {
        let world = try NetWorld()
        let first = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace("ip link add br0 type bridge && ip link set vif5.0 master br0")
        if state != "2" { try world.base.write([NetWorld.front("state"): state]) }
        #expect(try world.base.wait(NetWorld.back("state"), state))
        let before = try world.inNamespace("ip -o link show vif5.0")
        first.signal(SIGTERM)
        #expect(first.wait() == .exited(0))
        #expect(try world.inNamespace("ip -o link show vif5.0") == before)
        let second = try world.startDaemon()
        try world.base.remove("/local/domain/0/backend/vif/5")
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link").contains("vif5.0") })
        second.kill()
    }

    /// `vifname=`, with nobody who keeps the device's queues.
    @Test(arguments: [SIGTERM, SIGKILL])
    func `an interface that a script has renamed is served on by a process that was left no queues`(
        signal: Int32
    ) throws {
        let world = try NetWorld()
        let first = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace(
            "ip link set vif5.0 name uplink && ip addr add 10.9.0.1/24 dev uplink && ip link set uplink up")
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        #expect(try world.resolve(front) != nil)
        first.signal(signal)
        _ = first.wait()
        let second = try world.startDaemon()
        #expect(try world.resolve(front) != nil)
        #expect(try !world.inNamespace("ip -o link").contains("vif5.0"))
        second.kill()
    }

    @Test(arguments: [5, 6])
    func `a renamed device of an interface that went while nobody served it is removed`(domain: Int) throws {
        let world = try NetWorld()
        let first = try world.startDaemon()
        try world.createInterface()
        #expect(try world.base.wait(NetWorld.back("state"), "2"))
        _ = try world.inNamespace("ip link set vif5.0 name uplink")
        first.kill()
        _ = first.wait()
        try world.base.remove("/local/domain/0/backend/vif/5")
        let second = try world.startDaemon(domain: domain)
        #expect(try world.base.eventually { try !world.inNamespace("ip -o link").contains("uplink") })
        let record = world.base.directory + "/state/vif-5.0.tap"
        #expect(try world.base.eventually { !FileManager.default.fileExists(atPath: record) })
        second.kill()
    }
}

/// A world with a namespace that outlives the daemons in it.
final class NetWorld {
    let base: World
    private let holder: ChildProcess

    static var isPossible: Bool {
        geteuid() == 0 && FileManager.default.isWritableFile(atPath: "/dev/net/tun")
            && ["/usr/bin/unshare", "/usr/bin/nsenter", "/usr/sbin/ip", "/usr/bin/sleep"].allSatisfy {
                FileManager.default.isExecutableFile(atPath: $0)
            }
    }

    /// - Parameter pages: of the guest, which has as many grants; each connection takes 514.
    init(pages: UInt32 = 2048) throws {
        base = try World(pages: pages, references: pages)
        holder = try ChildProcess("/usr/bin/unshare", ["--net", "/usr/bin/sleep", "300"])
        // Until it is in its own namespace.
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/net")
        let path = "/proc/\(holder.identifier)/ns/net"
        _ = try base.eventually { (try? FileManager.default.destinationOfSymbolicLink(atPath: path)) != own }
    }

    deinit { holder.kill() }

    /// - Parameters:
    ///   - wrapper: a program that starts it, with its own arguments.
    ///   - store: the service manager's.
    func startDaemon(
        _ more: [String] = [], domain: Int = 5, level: String = "critical", by wrapper: [String] = [],
        store: DescriptorStore? = nil
    ) throws -> ChildProcess {
        let path = (World.daemonPath as NSString).deletingLastPathComponent + "/xen-netbackd"
        return try ChildProcess(
            "/usr/bin/nsenter",
            [
                "--net=/proc/\(holder.identifier)/ns/net"
            ] + wrapper + [
                path, "--domid", "\(domain)", "--xen", "loopback:\(base.directory)", "--log-level", level,
            ] + more, store: store)
    }

    func inNamespace(_ script: String) throws -> String {
        let output = Pipe()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/nsenter")
        process.arguments = [
            "--net=/proc/\(holder.identifier)/ns/net", "/bin/sh", "-c", "PATH=/usr/sbin:/usr/bin; \(script)",
        ]
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(script): \(text)")
        return text
    }

    // MARK: the toolstack and the guest

    static func back(_ name: String, _ number: Int = 0) -> String {
        "/local/domain/0/backend/vif/5/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }
    static func front(_ name: String, _ number: Int = 0) -> String {
        "/local/domain/5/device/vif/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }

    /// As libxl does: all nodes in one transaction.
    func createInterface(_ number: Int = 0) throws {
        try createInterface(
            [
                Self.back("script", number): "/etc/xen/scripts/vif-bridge", Self.back("hotplug-status", number): "",
            ], number)
    }

    /// As whoever runs no scripts does.
    func createInterface(_ more: [String: String], _ number: Int = 0) throws {
        let backend = [
            "frontend": Self.front("", number), "frontend-id": "5", "online": "1", "state": "1",
            "handle": "\(number)", "mac": "00:16:3e:00:00:05", "type": "vif",
        ]
        let frontend = [
            "backend": Self.back("", number), "backend-id": "0", "state": "1", "handle": "\(number)",
            "mac": "00:16:3e:00:00:05",
        ]
        var nodes = more
        for (name, value) in backend { nodes[Self.back(name, number)] = nodes[Self.back(name, number)] ?? value }
        for (name, value) in frontend { nodes[Self.front(name, number)] = nodes[Self.front(name, number)] ?? value }
        try base.write(nodes)
    }

    func plugIn(_ number: Int = 0) throws { try base.write([Self.back("hotplug-status", number): "connected"]) }

    /// - Parameter changes: to what an honest frontend writes, by name; nil: not written.
    func connect(_ number: Int = 0, _ changes: [String: String?] = [:]) throws -> NetFrontQueue {
        let front = try NetFrontQueue(base.guest, backend: DomainID(0), isSplit: true)
        var nodes = [
            "tx-ring-ref": "\(front.references.transmit)", "rx-ring-ref": "\(front.references.receive)",
            "event-channel-tx": "\(front.transmitPort.number)", "event-channel-rx": "\(front.receivePort.number)",
            "request-rx-copy": "1", "feature-rx-notify": "1", "feature-sg": "1", "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1", "feature-ipv6-csum-offload": "1", "state": "4",
        ]
        for (name, value) in changes { nodes[name] = value }
        try base.write(Dictionary(uniqueKeysWithValues: nodes.map { (Self.front($0, number), $1) }))
        return front
    }

    // MARK: frames

    private static let guest: [UInt8] = [0, 0x16, 0x3E, 0, 0, 5]

    /// The last of the frames that satisfy `isWanted`, or nil after so many seconds.
    private func await(
        _ front: NetFrontQueue, seconds: Int, _ isWanted: ([UInt8]) -> Bool
    ) throws -> [UInt8]? {
        var found: [UInt8]?
        _ = try base.eventually(seconds: seconds) {
            try front.reap()
            for frame in try front.take() where isWanted(frame.bytes) { found = frame.bytes }
            return found != nil
        }
        return found
    }

    /// Asks for the hardware address of 10.9.0.1 as 10.9.0.2, in the network 10.9.`network`.0: again every second, as stations do.
    /// The host sends no answer before it has noticed that the carrier is on, which takes Linux up to a second (link_watch.c).
    func resolve(_ front: NetFrontQueue, network: UInt8 = 0) throws -> [UInt8]? {
        let question: [UInt8] =
            [255, 255, 255, 255, 255, 255] + Self.guest + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + Self.guest
            + [10, 9, network, 2, 0, 0, 0, 0, 0, 0, 10, 9, network, 1]
        var (answer, looks): ([UInt8]?, Int) = (nil, 0)
        _ = try base.eventually {
            if looks % 100 == 0 {
                front.send(question)
                front.publish()
            }
            looks += 1
            try front.reap()
            for frame in try front.take().map(\.bytes)
            where frame.count >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 { answer = frame }
            return answer != nil
        }
        return answer.map { Array($0[22..<28]) }
    }

    /// Sends an echo request and returns the answer.
    func ping(
        _ front: NetFrontQueue, _ host: [UInt8], payload: Int, network: UInt8 = 0, seconds: Int = 60
    ) throws -> [UInt8]? {
        var echo: [UInt8] = [8, 0, 0, 0, 0, 1, 0, 2] + (0..<payload).map { UInt8(truncatingIfNeeded: $0) }
        echo.replaceSubrange(2..<4, with: Self.sum(echo))
        let total = UInt16(20 + echo.count)
        var ip: [UInt8] = [
            0x45, 0, UInt8(total >> 8), UInt8(truncatingIfNeeded: total), 0, 0, 0, 0, 64, 1, 0, 0, 10, 9, network, 2,
            10, 9, network, 1,
        ]
        ip.replaceSubrange(10..<12, with: Self.sum(ip))
        front.send(host + Self.guest + [8, 0] + ip + echo)
        front.publish()
        return try self.await(front, seconds: seconds) { $0.count >= 42 && $0[23] == 1 && $0[34] == 0 }
    }

    private static func sum(_ bytes: [UInt8]) -> [UInt8] {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count, by: 2) {
            sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
        }
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
        return [UInt8(~UInt16(sum) >> 8), UInt8(truncatingIfNeeded: ~UInt16(sum))]
    }
}
