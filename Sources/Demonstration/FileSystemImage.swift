internal import Descriptors
internal import Loopback

/// An ext4 file system in a file, made without privileges and without mounting anything.
public struct FileSystemImage: Sendable {
    /// The file.
    public let path: String
    /// Its size.
    public let bytes: UInt64
    /// What was put into it.
    public let contents: Contents

    /// Files and the bytes in them.
    public struct Contents: Sendable, Equatable {
        public let files: Int
        public let bytes: Int
    }

    /// The largest of the generated files.
    private static let largestFile = 1 << 20
    private static let directories = 4

    /// Generates files and puts them into a file system; `mke2fs -d` copies a directory into one that it makes.
    ///
    /// - Parameters:
    ///   - directory: a directory of our own, in which the image and the files are made.
    ///   - mebibytes: the image's size, 32 or more; three quarters are filled, the rest is ext4's own.
    ///   - isOver: as of `HostTool.run`.
    public init(
        in directory: String, mebibytes: Int, seed: UInt64, milliseconds: Int, isOver: () -> Bool
    ) throws(HostToolError) {
        let tree = "\(directory)/files"
        path = "\(directory)/disk.img"
        bytes = UInt64(mebibytes) << 20
        do throws(Fault) {
            contents = try Self.generate(tree, bytes: mebibytes << 20 / 4 * 3, seed: seed)
        } catch {
            throw .host(error)
        }
        let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", "-L", "demo", "-d", tree, path, "\(mebibytes)M"]
        try HostTool("mke2fs", arguments, log: "\(directory)/mke2fs.log")
            .run(milliseconds: milliseconds, isOver: isOver)
    }

    /// Files of all sizes up to the largest, in a few directories. No two blocks of them are the same, so that a block at
    /// a wrong place cannot pass for the right one.
    private static func generate(_ tree: String, bytes: Int, seed: UInt64) throws(Fault) -> Contents {
        var random = SeededRandom(seed: seed)
        for path in [tree] + (0..<directories).map({ "\(tree)/\($0)" }) { try HostFile.makeDirectory(path) }
        var (files, left) = (0, bytes)
        while left > 0 {
            let size = min(random.below(largestFile) + 1, left)
            try HostFile.write(noise(size, &random), to: "\(tree)/\(files % directories)/file-\(files)")
            left -= size
            files += 1
        }
        return Contents(files: files, bytes: bytes)
    }

    private static func noise(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
        // Whole words, of which `count` bytes are taken.
        let words = (0..<(count + 7) / 8).map { _ in random.next() }
        return unsafe words.withUnsafeBytes { unsafe [UInt8]($0.prefix(count)) }
    }
}
