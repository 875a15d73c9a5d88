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

    /// Nothing left to serve, a wrong command line, and somebody else who serves the same.
    @Test(arguments: [0, 2, 3]) func `a program that ends by itself ends it, with its status`(status: Int32) throws {
        let world = try World()
        #expect(try supervise(world, "exit \(status)").wait() == .exited(status))
    }

    /// 75: a device came when it was about to end. 127: what a loader says that does not find a library.
    @Test(arguments: ["kill -KILL $$", "kill -SEGV $$", "exit 75", "exit 1", "exit 127"])
    func `one that is killed or fails is started again`(end: String) throws {
        let world = try World()
        let child = try supervise(world, "echo started >>log; [ $(wc -l <log) -eq 3 ] || { \(end); }; exit 2")
        #expect(child.wait() == .exited(2))
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

    /// Its store needs a thousand descriptors and some.
    @Test(
        .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/prlimit"), "SKIPPED: prlimit is needed"),
        arguments: [("5000:10000", "5000\n10000\n"), ("200:10000", "1094\n10000\n")])
    func `the limit of open files is raised, and never lowered`(limits: String, result: String) throws {
        let world = try World()
        let child = try ChildProcess(
            "/usr/bin/prlimit",
            [
                "--nofile=\(limits)", Self.command, "supervise", "--socket", world.directory + "/notify", "/bin/sh",
                "-c",
                "cd \(world.directory); ulimit -Sn >>log; ulimit -Hn >>log",
            ])
        #expect(child.wait() == .exited(0))
        #expect(log(world) == result)
    }

    private func log(_ world: World) -> String {
        (try? String(contentsOfFile: world.directory + "/log", encoding: .utf8)) ?? ""
    }

    @Test func `a program that is away while it is replaced is waited for`() throws {
        let world = try World()
        let path = world.directory + "/program"
        let script = """
            #!/bin/sh
            cd \(world.directory); echo started >>log; [ $(wc -l <log) -eq 1 ] || exit 2
            mv program away; kill -KILL $$
            """
        try script.write(toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
        let child = try ChildProcess(
            Self.command, ["supervise", "--socket", world.directory + "/notify", path], output: STDERR_FILENO)
        #expect(try world.eventually { FileManager.default.fileExists(atPath: world.directory + "/away") })
        usleep(300_000)
        #expect(child.ended == nil)
        try FileManager.default.moveItem(atPath: world.directory + "/away", toPath: path)
        #expect(child.wait() == .exited(2))
        #expect(log(world) == "started\nstarted\n")
    }

    @Test func `a second one starts nothing, also while there is no process`() throws {
        let world = try World()
        let first = try supervise(world, "echo started >>log; sleep 0.1; kill -KILL $$")
        #expect(try world.eventually { log(world) == "started\n" })
        let second = try supervise(world, "echo second >>log; exit 0")
        #expect(second.wait() == .exited(3))
        #expect(!log(world).contains("second") && first.ended == nil)
        first.signal(SIGTERM)
        _ = first.wait()
    }

    /// Else a device that appears when the daemon has just ended would be nobody's.
    @Test func `a second one takes over from one that is about to end`() throws {
        let world = try World()
        let first = try supervise(world, "echo started >>log; sleep 1; exit 0")
        #expect(try world.eventually { log(world) == "started\n" })
        let second = try supervise(world, "echo second >>log; exit 2")
        #expect(second.wait() == .exited(2))
        #expect(first.wait() == .exited(0))
        #expect(log(world) == "started\nsecond\n")
    }

    @Test(arguments: [SIGTERM, SIGINT, SIGHUP])
    func `a signal is passed on, and the end of the program waited for`(signal: Int32) throws {
        let world = try World()
        let waiting = "for i in $(seq 600); do sleep 0.1; done"
        let child = try supervise(
            world, "trap 'sleep 0.3; echo told >>log; exit 0' TERM INT HUP; echo started >>log; \(waiting)")
        #expect(try world.eventually { log(world) == "started\n" })
        child.signal(signal)
        #expect(child.wait() == .exited(0))
        #expect(log(world) == "started\ntold\n")
        #expect(!FileManager.default.fileExists(atPath: world.directory + "/notify"))
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
