internal import CLinux
public import Descriptors
internal import Glibc

/// A directory of our own, removed with all that is in it when the object goes.
public final class ScratchDirectory {
    public let path: String

    /// - Parameter temporary: where it is made.
    public init(in temporary: String) throws(Fault) {
        var template = Array("\(temporary)/xen-loopback.XXXXXX".utf8CString)
        // mkdtemp writes within the template's own bytes.
        guard unsafe mkdtemp(&template) != nil else { throw Fault("make a directory in \(temporary)", errno: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        // Only reads the path; what cannot be removed stays.
        unsafe _ = linux_remove_tree(path)
    }
}
