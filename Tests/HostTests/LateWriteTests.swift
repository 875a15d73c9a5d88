import BlockBackend
import CLinux
import Descriptors
import Glibc
import Testing
import Uring
import XenWire

/// Writes that land after the process which started them was killed, and the fence that keeps the next one behind them.
@Suite(
    .serialized, .enabled(if: SlowVolume.isPossible, "SKIPPED: root, loop devices and the blkio controller are needed"))
struct LateWriteTests {
    private static let rounds = 3

    /// What is on the volume does not change any more once the fence lets the next process go. That the test can tell is
    /// seen from io_uring, whose writes land after the end of their process: there the content at that moment is not the
    /// last, and who did not wait for the fence would have been overtaken.
    @Test(arguments: [EngineKind.uring, .libaio])
    func `the fence opens after the last write of a killed process`(kind: EngineKind) throws {
        let slow = try SlowVolume(bytes: 8 << 20, bytesPerSecond: 2 << 20)
        var overtaken = 0
        for round in 1...Self.rounds {
            let peer = try FencePeer(slow, kind, byte: UInt8(round))
            peer.kill()
            let afterEnd = try slow.content()
            let volume = try Volume(slow.device, VolumeOptions(direct: .on, loopFiles: false))
            let fence = VolumeFence(volume.data, domain: DomainID(5), device: 51712, host: 1)
            while try !fence.pass() { usleep(1000) }
            let afterFence = try slow.content()
            sleep(1)
            #expect(try slow.content() == afterFence, "\(kind), round \(round): a write came through the fence")
            if afterEnd != afterFence { overtaken += 1 }
        }
        if kind == .uring { #expect(overtaken > 0, "no write was late, so nothing was shown") }
    }

    @Test func `how long a fence was closed is known once it is open`() throws {
        let file = try ScratchFile(size: 1 << 20)
        var before: Volume? = try Volume(file.path)
        let volume = try Volume(file.path)
        let fence = VolumeFence(volume.data, domain: DomainID(5), device: 51712, host: 1)
        #expect(try VolumeFence(before?.data ?? -1, domain: DomainID(5), device: 51712, host: 1).pass())
        #expect(try !fence.pass())
        #expect(fence.waited == nil)
        usleep(20_000)
        before = nil
        // A child that another test is just starting has the descriptor a moment longer than we.
        for _ in 0..<1000 where try !fence.pass() { usleep(1000) }
        #expect(try fence.pass())
        let waited = try #require(fence.waited)
        #expect(waited >= 20_000_000)
        #expect(try fence.pass())
        #expect(fence.waited == waited)
    }

    @Test func `another domain's lock on the same volume is none of ours`() throws {
        let file = try ScratchFile(size: 1 << 20)
        let (first, second) = (try Volume(file.path), try Volume(file.path))
        func fence(_ volume: Volume, _ domain: UInt16, _ device: UInt32, _ host: UInt16) -> VolumeFence {
            VolumeFence(volume.data, domain: DomainID(domain), device: device, host: host)
        }
        #expect(try fence(first, 5, 51712, 1).pass())
        #expect(try !fence(second, 5, 51712, 1).pass())
        #expect(try fence(second, 6, 51712, 1).pass())
        #expect(try fence(second, 5, 51728, 1).pass())
        #expect(try fence(second, 5, 51712, 2).pass())
    }
}

/// A block device that takes long for each write: a loop device that a cgroup may write to slowly.
final class SlowVolume {
    let device: String
    private let file: ScratchFile
    private let group: String

    static var isPossible: Bool {
        unsafe Host.hasLoopDevices && access("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device", F_OK) == 0
    }

    init(bytes: Int, bytesPerSecond: Int) throws {
        file = try ScratchFile(size: bytes)
        device = try Host.run("losetup", ["--find", "--show", "--direct-io=off", file.path]).trimmed
        group = "/sys/fs/cgroup/blkio/late-write-\(getpid())"
        let made = unsafe mkdir(group, 0o755)
        try #require(made == 0 || errno == EEXIST)
        let number = try Host.run("stat", ["-c", "%Hr:%Lr", device]).trimmed
        try write("\(number) \(bytesPerSecond)", "blkio.throttle.write_bps_device")
    }

    deinit {
        _ = try? Host.run("losetup", ["-d", device])
        for _ in 0..<100 where unsafe rmdir(group) != 0 { usleep(20_000) }
    }

    /// Where a process is put that is to be slow.
    var processes: String { "\(group)/cgroup.procs" }

    /// A sum of all that is in the file behind the device.
    func content() throws -> String { try Host.run("md5sum", [file.path]) }

    private func write(_ text: String, _ name: String) throws {
        _ = try Host.run("sh", ["-c", "echo '\(text)' > \(group)/\(name)"])
    }
}

/// A `fence-peer` with writes under way.
private final class FencePeer {
    private let process: pid_t

    init(_ slow: SlowVolume, _ kind: EngineKind, byte: UInt8) throws {
        var pipes: [Int32] = [0, 0]
        try #require(unsafe pipe(&pipes) == 0)
        defer { pipes.forEach { close($0) } }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_adddup2(&actions, pipes[1], 1)
        // Slowed down before it starts, as its writes are counted for the group that it is in then.
        let command = "echo $$ > \(slow.processes) && exec \(Self.path) \(slow.device) \(kind.rawValue) \(byte)"
        let texts: [String] = ["sh", "-c", command]
        var words = unsafe texts.map { unsafe strdup($0) } + [nil]
        defer { unsafe words.forEach { unsafe free($0) } }
        var child = pid_t()
        let code = unsafe posix_spawn(&child, "/bin/sh", &actions, nil, &words, environ)
        try #require(code == 0)
        process = child
        var answer = [UInt8](repeating: 0, count: 6)
        try #require(unsafe read(pipes[0], &answer, 6) == 6)
        try #require(String(decoding: answer, as: UTF8.self) == "ready\n")
        usleep(200_000)
    }

    /// Returns when the process is gone.
    func kill() {
        _ = Glibc.kill(process, SIGKILL)
        var status: Int32 = 0
        unsafe waitpid(process, &status, 0)
    }

    private static var path: String {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count)
        let own = String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return (own.lastIndex(of: "/").map { String(own[...$0]) } ?? "") + "fence-peer"
    }
}

extension String {
    fileprivate var trimmed: String { String(split(separator: "\n").first ?? "") }
}
