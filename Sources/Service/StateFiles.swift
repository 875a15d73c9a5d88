internal import Descriptors
internal import Glibc

extension StateDirectory {
    /// The names of all files in the directory, our own and those of other daemons; none if it cannot be read.
    public var fileNames: [String] {
        guard let directory = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        // The entry is valid until the next call; its name ends with a zero.
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { name in
                unsafe String(cString: UnsafeRawPointer(name).assumingMemoryBound(to: CChar.self))
            }
            names.append(name)
        }
        return names
    }

    /// One of our files is there.
    public func has(_ suffix: String) -> Bool { unsafe access(path(of: suffix), F_OK) == 0 }
}
