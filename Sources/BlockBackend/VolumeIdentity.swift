internal import CLinux
internal import Descriptors
internal import Glibc
internal import SharedRing

/// A volume as journals know it, while the host is up.
struct VolumeIdentity: Equatable {
    /// The volume's own name, which paths do not have: they may lead to another one later.
    let volume: String
    /// The same of what is read and written: for a loop device perhaps the file behind it. What an earlier process has under
    /// way is under way there.
    let data: String
    /// Where that was.
    let path: String

    static func name(of descriptor: Int32) throws(Fault) -> String {
        var status = stat()
        // `status` lives for the call.
        guard unsafe fstat(descriptor, &status) == 0 else { throw Fault("examine a volume", errno: errno) }
        return status.st_mode & S_IFMT == S_IFBLK
            ? "device \(status.st_rdev)" : "file \(status.st_ino) on \(status.st_dev)"
    }

    /// Empty where a journal's header would have no room for it.
    static func path(of descriptor: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 2048)
        let count = unsafe readlink("/proc/self/fd/\(descriptor)", &buffer, buffer.count)
        guard (1..<buffer.count).contains(count) else { return "" }
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    var facts: [JournalIdentity.Fact] { [.init("volume", volume), .init("data", data), .init("path", path)] }

    /// Why what is in flight by a journal is not in flight here.
    func difference(from journal: JournalIdentity) -> JournalRefusal? {
        // Versions before this one did not say where the data is.
        let known = facts.prefix(2).filter { $0.name == "volume" || journal[$0.name] != nil }
        return journal.difference(from: JournalIdentity(known))
    }
}

/// Where an earlier process may have I/O under way on a volume that nobody serves any more.
struct VolumePlace: Hashable {
    let data: String
    let path: String

    /// Nil if the journal's version did not say it, or nothing is written there.
    init?(_ journal: JournalIdentity) {
        guard let data = journal["data"], let path = journal["path"], data != "null" else { return nil }
        self.data = data
        self.path = path
    }

    /// Open for locks.
    func open() throws(Fault) -> OwnedDescriptor {
        // O_NONBLOCK: should it have become a pipe, open would block.
        let opened = unsafe linux_open(path, O_WRONLY | O_NONBLOCK, 0)
        let descriptor = try OwnedDescriptor(opened, "open \(path)")
        guard try VolumeIdentity.name(of: descriptor.number) == data else {
            throw Fault("\(path) is no longer \(data)", errno: ESTALE)
        }
        return descriptor
    }
}
