public import Descriptors
internal import Glibc

extension StateDirectory {
    /// The names of all files in the directory, our own and those of other daemons; none if it cannot be read.
    public var fileNames: [String] { Self.files(in: path) }

    /// Gives one of our files another name, in the place of whatever has that.
    public func rename(_ old: String, _ new: String) throws(Fault) {
        // Both strings live for the call.
        guard unsafe Glibc.rename(path(of: old), path(of: new)) != 0 else { return }
        throw Fault("rename \(path(of: old)) to \(new)", errno: errno)
    }

    /// One of our files is there.
    public func has(_ suffix: String) -> Bool { unsafe access(path(of: suffix), F_OK) == 0 }

    /// What lies in a directory; nothing if it cannot be read.
    public static func files(in directory: String) -> [String] {
        guard let stream = unsafe opendir(directory) else { return [] }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            // The entry is valid until the next call; its name ends with a zero (readdir(3)).
            unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe names.append(String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self))
            }
        }
        return names
    }
}
