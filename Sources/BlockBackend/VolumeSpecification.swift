/// What a volume's name means, before anything is opened.
enum VolumeSpecification: Equatable {
    /// No storage at all, for measuring.
    case null
    /// A device or a file: the first of these paths that exists.
    case paths([String])

    /// - `null`;
    /// - `/...`: that path;
    /// - `VG/LV`: a logical volume, as `/dev/VG/LV` or, where udev has made no such link, `/dev/mapper/VG-LV`; a relative
    ///   path if there is no such volume;
    /// - anything else: a relative path.
    init(_ text: String) throws(VolumeError) {
        guard !text.isEmpty else { throw VolumeError("", "its name is empty") }
        guard !text.utf8.contains(0) else { throw VolumeError("", "its name holds a NUL byte") }
        if text == "null" {
            self = .null
        } else if let (group, volume) = Self.logicalVolume(text) {
            self = .paths([
                "/dev/\(group)/\(volume)", "/dev/mapper/\(Self.mapperName(group, volume))", text,
            ])
        } else {
            self = .paths([text])
        }
    }

    private static func logicalVolume(_ text: String) -> (group: String, volume: String)? {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, parts.allSatisfy({ isLogicalVolumeName($0) }) else { return nil }
        return (String(parts[0]), String(parts[1]))
    }

    /// lvm(8), "Valid names": these characters, no hyphen first, not `.` or `..`.
    private static func isLogicalVolumeName(_ name: Substring) -> Bool {
        guard let first = name.utf8.first, first != UInt8(ascii: "-"), name != ".", name != ".." else { return false }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: [UInt8](["+", "_", ".", "-"].map { UInt8(ascii: $0) }).contains(byte)
            }
        }
    }

    /// The device mapper joins both names with a hyphen and doubles those within (lvm2, `dm_build_dm_name`).
    static func mapperName(_ group: String, _ volume: String) -> String {
        [group, volume].map { name in
            name.split(separator: "-", omittingEmptySubsequences: false).joined(separator: "--")
        }
        .joined(separator: "-")
    }
}

/// A volume that cannot be served: its name, and the rule that it breaks.
public struct VolumeError: Error, Equatable, Sendable, CustomStringConvertible {
    /// As the administrator wrote it.
    public let name: String
    /// What is wrong, as the second half of a sentence.
    public let rule: String

    init(_ name: String, _ rule: String) {
        self.name = name
        self.rule = rule
    }

    /// `volume /srv: is a directory; a volume is a block device or a regular file`
    public var description: String { name.isEmpty ? "volume: \(rule)" : "volume \(name): \(rule)" }
}
