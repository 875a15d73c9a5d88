internal import CLinux
internal import Glibc

/// A backend's process, found by its lock file.
public struct RunningDaemon: Equatable, Sendable {
    /// `xen-blkbackd`
    public let name: String
    public let domain: UInt16
    public let process: Int32
    /// The program as it lies in the file system now, which may be another one than this process runs.
    public let program: String
    private let stem: String

    /// The daemons' names, and what their files in the state directory begin with.
    public static let kinds = [(name: "xen-blkbackd", prefix: "vbd"), (name: "xen-netbackd", prefix: "vif")]

    /// All that run and keep their state in `directory`, which is usually the daemon's own below /run.
    public static func all(_ name: String, prefix: String, in directory: String) -> [RunningDaemon] {
        StateDirectory.files(in: directory).compactMap { file in
            guard file.hasPrefix("\(prefix)-"), file.hasSuffix(".lock"),
                let domain = UInt16(file.dropFirst(prefix.utf8.count + 1).dropLast(5))
            else { return nil }
            return RunningDaemon(name, domain, stem: "\(directory)/\(prefix)-\(domain)")
        }.sorted { $0.domain < $1.domain }
    }

    private init?(_ name: String, _ domain: UInt16, stem: String) {
        // The lock is not touched: a daemon that starts just now must not find it taken.
        guard let text = Self.text("\(stem).lock"), let process = Int32(text.filter(\.isNumber)),
            Self.text("/proc/\(process)/comm")?.split(separator: "\n").first == Substring(name.prefix(15)),
            let program = Self.link("/proc/\(process)/exe")
        else { return nil }
        self.name = name
        self.domain = domain
        self.stem = stem
        self.process = process
        // proc(5): what was replaced is called so.
        self.program = program.hasSuffix(" (deleted)") ? String(program.dropLast(10)) : program
    }

    /// The process is gone, or nothing but its status is left.
    public var hasEnded: Bool { Self.link("/proc/\(process)/exe") == nil }

    /// The process that has taken this one's place by now, if one has.
    public var successor: RunningDaemon? {
        guard let now = RunningDaemon(name, domain, stem: stem), now.process != process else { return nil }
        return now
    }

    /// Devices that its status file calls connected, and that do not wait for their volume; 0 if the file is an earlier
    /// process's.
    public var connectedDevices: Int {
        let status = Self.text("\(stem).status") ?? ""
        guard status.hasPrefix("{\"process\":\(process),") else { return 0 }
        return status.split(separator: "\"state\":", omittingEmptySubsequences: false).dropFirst()
            .count { $0.hasPrefix("\"Connected\"") && !$0.contains("\"waits_for\"") }
    }

    var stateDirectory: String { String(stem[..<(stem.lastIndex(of: "/") ?? stem.startIndex)]) }

    private static func text(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file(path, &buffer, buffer.count)
        return got < 0 ? nil : String(decoding: buffer.prefix(got), as: UTF8.self)
    }

    private static func link(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let got = unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe bytes.baseAddress.map { base in
                unsafe readlink(path, base.assumingMemoryBound(to: CChar.self), bytes.count)
            } ?? -1
        }
        return got < 0 ? nil : String(decoding: buffer.prefix(got), as: UTF8.self)
    }
}
