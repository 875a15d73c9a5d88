internal import CLinux
internal import Descriptors
internal import Glibc

/// The file behind a loop device, open as the device would use it.
///
/// Xen's block script puts a loop device under every `file:` disk. Going through it costs a second queue and a switch to a
/// kernel thread for each operation, and shows the same bytes. See docs/decisions/0018-loop-devices.md.
struct BackingFile: ~Copyable {
    let descriptor: OwnedDescriptor
    /// O_DIRECT.
    let isDirect: Bool
    let path: String

    /// Nil where the device has to be used: it is no loop device, it shows only a part of its file, it may be given
    /// another file (only a read-only one can, LOOP_CHANGE_FD), or the file cannot be reached from here.
    ///
    /// Memory or descriptors that are lacking just now are no reason to serve it otherwise than an earlier process did.
    ///
    /// - Parameters:
    ///   - device: open, and stays so: that keeps the loop device as it is.
    ///   - number: of the device, from stat(2).
    init?(behind device: Int32, number: UInt64, direct: DirectMode) throws(Fault) {
        var loop = linux_loop()
        guard unsafe linux_loop_status(device, &loop) == 0, loop.offset == 0, loop.limit == 0, loop.read_only == 0,
            let path = Self.path(number)
        else { return nil }
        // Before it is opened, too: opening what somebody may have put in its place (a tape, a watchdog) does things.
        var status = stat()
        guard unsafe stat(path, &status) == 0, Self.isFile(status, loop) else { return nil }
        let isDirect = direct == .on || direct == .auto && loop.direct != 0
        let opened = unsafe linux_open(path, O_RDWR | (isDirect ? linux_o_direct : 0), 0)
        if [ENOMEM, EMFILE, ENFILE].contains(-opened) { throw Fault("open \(path)", errno: -opened) }
        guard opened >= 0 else { return nil }
        let descriptor = OwnedDescriptor(owning: opened)
        // What dom0 wrote to the device is in its page cache.
        guard unsafe fstat(descriptor.number, &status) == 0, Self.isFile(status, loop), linux_synchronize(device) == 0
        else { return nil }
        self.descriptor = descriptor
        self.isDirect = isDirect
        self.path = path
    }

    private static func path(_ number: UInt64) -> String? {
        SystemFile.text(
            "/sys/dev/block/\(linux_device_major(number)):\(linux_device_minor(number))/loop/backing_file")
    }

    private static func isFile(_ status: stat, _ loop: linux_loop) -> Bool {
        status.st_mode & S_IFMT == S_IFREG && status.st_dev == loop.device && status.st_ino == loop.inode
    }
}
