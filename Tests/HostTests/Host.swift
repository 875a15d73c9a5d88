import BlockBackend
import CLinux
import Glibc
import Testing

/// What these tests need of the machine. Loop devices and mounts need root; without it those tests are skipped, loudly.
enum Host {
    static var hasLoopDevices: Bool { unsafe geteuid() == 0 && access("/dev/loop-control", W_OK) == 0 }
    static let loopIsMissing: Comment = "SKIPPED: root and /dev/loop-control are needed"

    /// Where scratch files go: not /tmp, which is a tmpfs on many hosts.
    static var scratch: String { unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/var/tmp" }

    /// Runs a program of the base system and returns what it printed.
    @discardableResult
    static func run(_ program: String, _ arguments: [String]) throws -> String {
        let output = try ScratchFile(size: 0)
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 1, output.path, O_WRONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var words = unsafe ([program] + arguments).map { unsafe strdup($0) } + [nil]
        var environment = unsafe [strdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nil]
        defer { unsafe (words + environment).forEach { unsafe free($0) } }
        var child = pid_t()
        let code = unsafe posix_spawnp(&child, program, &actions, nil, &words, &environment)
        try #require(code == 0, "\(program) is not installed")
        var status: Int32 = 0
        unsafe waitpid(child, &status, 0)
        try #require(status == 0, "\(program) \(arguments): \(output.text)")
        return output.text
    }
}

/// A file of this test's own, removed when the value goes.
final class ScratchFile: Sendable {
    let path: String

    /// `size` bytes, all of it holes.
    init(size: Int, in folder: String = Host.scratch) throws {
        var template = Array("\(folder)/host-test-XXXXXX".utf8CString)
        let made = unsafe mkstemp(&template)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        try #require(made >= 0, "mkstemp \(path)")
        defer { close(made) }
        try #require(ftruncate(made, size) == 0)
    }

    deinit { _ = unsafe unlink(path) }

    func truncate(to size: Int) throws { try #require(unsafe Glibc.truncate(path, size) == 0) }

    /// The first 4,095 bytes.
    var text: String {
        let bytes = unsafe [CChar](unsafeUninitializedCapacity: 4096) { buffer, count in
            guard let base = buffer.baseAddress else { return }
            count = max(0, unsafe linux_read_text(path, base, buffer.count))
        }
        return String(decoding: bytes.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// 512-byte blocks that it occupies on its file system.
    var occupied: Int {
        var status = stat()
        return unsafe stat(path, &status) == 0 ? Int(status.st_blocks) : -1
    }
}

extension VolumeOptions {
    /// A loop device, not the file behind it.
    static let itself = VolumeOptions(loopFiles: false)
}

/// A loop device over a file of its own; detached when the value goes, whatever the test did.
final class LoopDevice {
    let backing: ScratchFile
    let path: String

    init(size: Int, sector: Int = 512, readOnly: Bool = false, options: [String] = []) throws {
        backing = try ScratchFile(size: size)
        let flags = ["--find", "--show", "--sector-size", "\(sector)"] + (readOnly ? ["--read-only"] : []) + options
        path = String(try Host.run("losetup", flags + [backing.path]).prefix { $0 != "\n" })
    }

    deinit { _ = try? Host.run("losetup", ["--detach", path]) }
}

/// A small file system in memory or on a loop device, unmounted when the value goes.
final class Mount {
    let path: String

    init(_ options: [String], source: String) throws {
        var template = Array("\(Host.scratch)/host-test-XXXXXX".utf8CString)
        path = try unsafe String(cString: #require(unsafe mkdtemp(&template)))
        do {
            try Host.run("mount", options + [source, path])
        } catch {
            _ = unsafe rmdir(path)
            throw error
        }
    }

    deinit {
        _ = try? Host.run("umount", ["--lazy", path])
        _ = unsafe rmdir(path)
    }
}
