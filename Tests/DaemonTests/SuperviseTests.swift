import Descriptors
import Foundation
import Loopback
import Testing

/// `xen-backctl supervise`, which takes systemd's place where there is none.
@Suite struct SuperviseTests {
    private static let command =
        URL(fileURLWithPath: World.daemonPath).deletingLastPathComponent().path + "/xen-backctl"

    private func supervise(_ world: World, _ script: String) throws -> ChildProcess {
        try ChildProcess(
            Self.command,
            ["supervise", "--socket", world.directory + "/notify", "/bin/sh", "-c", "cd \(world.directory); " + script])
    }

    @Test(arguments: [0, 1, 7]) func `a program that ends by itself ends it, with its status`(status: Int32) throws {
        let world = try World()
        #expect(try supervise(world, "exit \(status)").wait() == .exited(status))
    }

    /// 75: a device came when it was about to end.
    @Test(arguments: ["kill -KILL $$", "kill -SEGV $$", "exit 75"])
    func `one that is killed is started again`(end: String) throws {
        let world = try World()
        let child = try supervise(world, "echo started >>log; [ $(wc -l <log) -eq 3 ] || { \(end); }; exit 5")
        #expect(child.wait() == .exited(5))
        #expect(try String(contentsOfFile: world.directory + "/log", encoding: .utf8) == "started\nstarted\nstarted\n")
    }

    @Test func `a program that is not there is named`() throws {
        let world = try World()
        let errors = world.directory + "/err"
        let child = try ChildProcess(
            "/bin/sh",
            ["-c", "exec \(Self.command) supervise --socket \(world.directory)/notify /nowhere/daemon 2>\(errors)"])
        #expect(child.wait() == .exited(1))
        #expect(try String(contentsOfFile: errors, encoding: .utf8).contains("start /nowhere/daemon: No such file"))
    }

    @Test(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
    func `a network daemon that is killed finds its queues again`() throws {
        let world = try NetWorld()
        let supervisor = try world.startDaemon(
            by: [Self.command, "supervise", "--socket", world.base.directory + "/notify"])
        let lock = world.base.directory + "/state/vif-5.lock"
        func process() -> Int32? {
            (try? String(contentsOfFile: lock, encoding: .utf8)).flatMap { Int32($0.filter(\.isNumber)) }
        }
        #expect(try world.base.eventually { process() != nil })
        defer {
            supervisor.kill()
            if let process = process() { kill(process, SIGKILL) }
        }
        try world.createInterface()
        try #require(try world.base.wait(NetWorld.back("state"), "2"))
        try world.plugIn()
        let front = try world.connect()
        #expect(try world.base.wait(NetWorld.back("state"), "4"))
        let first = try #require(process())
        kill(first, SIGKILL)
        // For a tenth of a second there is no process.
        #expect(try world.base.eventually { unsafe access("/proc/\(first)/fd/0", F_OK) != 0 })
        #expect(try world.inNamespace("ip link set vif5.0 up; ip -o link show vif5.0").contains("LOWER_UP"))
        #expect(try world.base.eventually { process().map { $0 != first } ?? false })
        _ = try world.inNamespace("ip addr add 10.9.0.1/24 dev vif5.0")
        #expect(try world.resolve(front) != nil)
    }
}
