internal import CLinux
internal import Descriptors
internal import Glibc

/// Something that the live platform cannot do without, and what the administrator can do about it; one line.
public struct MissingPart: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String

    init(_ description: String) {
        self.description = description
    }

    /// Runs `body`; a fault is explained.
    static func explain(_ path: String, _ body: () throws(Fault) -> Void) throws(MissingPart) {
        do throws(Fault) {
            try body()
        } catch {
            throw MissingPart(path, error.code, isOnXen: isOnXen)
        }
    }

    /// A device node that cannot be opened.
    init(_ path: String, _ code: Int32, isOnXen: Bool) {
        switch code {
        case ENOENT where !isOnXen, ENODEV where !isOnXen, ENXIO where !isOnXen:
            self.init(
                "\(path) is missing: this machine does not run under Xen (boot its Xen entry, or use --xen loopback:DIR)"
            )
        case ENOENT, ENODEV, ENXIO:
            self.init("\(path) is missing: load its module (modprobe xen-\(path.split(separator: "/").last ?? ""))")
        case EACCES, EPERM:
            self.init("\(path) may not be opened: run as root, or give this user the device")
        default:
            self.init("\(Fault("open \(path)", errno: code))")
        }
    }

    /// What Linux says of the hypervisor that it found (Documentation/ABI/stable/sysfs-hypervisor-xen).
    private static var isOnXen: Bool {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 16) { text in
            guard let base = text.baseAddress else { return false }
            // The call writes at most the room that it is given, with a NUL at the end.
            guard unsafe linux_read_text("/sys/hypervisor/type", base, text.count) > 0 else { return false }
            return unsafe String(cString: base).hasPrefix("xen")
        }
    }
}
