internal import CLinux
internal import Descriptors
internal import Glibc

/// The ledger of all daemons of this host, while this process has it to itself.
final class LedgerFile {
    private let path: String
    private let lock: OwnedDescriptor

    /// Waits until nobody else has it.
    init(in directory: String) throws(Fault) {
        // The strings live for the calls.
        let made = unsafe linux_make_private_directory(directory)
        guard made == 0 else { throw Fault("state directory \(directory)", errno: -made) }
        path = "\(directory)/attachments"
        lock = try OwnedDescriptor(unsafe linux_wait_for_lock("\(path).lock"), "lock \(path).lock")
    }

    func read() throws(Fault) -> Ledger {
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file(path, &buffer, buffer.count)
        guard got != -Int(ENOENT) else { return Ledger() }
        guard got >= 0, got < buffer.count else { throw Fault("read \(path)", errno: got < 0 ? Int32(-got) : EFBIG) }
        return Ledger(String(decoding: buffer.prefix(got), as: UTF8.self))
    }

    func write(_ ledger: Ledger) throws(Fault) {
        let bytes = Array(ledger.description.utf8)
        // The array lives for the call.
        let result = unsafe bytes.withUnsafeBufferPointer { bytes in
            unsafe linux_replace_file(
                path, path + ".new", bytes.baseAddress ?? UnsafePointer(bitPattern: 1), bytes.count)
        }
        guard result == 0 else { throw Fault("write \(path)", errno: -result) }
    }
}
