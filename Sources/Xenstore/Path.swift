/// A valid path of xenstore: absolute (`/local/domain/0`) or special (`@releaseDomain`, for watches and permissions).
///
/// Relative paths exist on the wire, but mean something else on every connection; this project sends one
/// only to learn which connection it is (`XenstoreClient.ownDomain`).
public struct XenstorePath: Hashable, Sendable, CustomStringConvertible {
    /// docs/misc/xenstore.txt: XENSTORE_ABS_PATH_MAX and XENSTORE_REL_PATH_MAX, without the NUL.
    public static let maximumLength = 3072
    public static let maximumRelativeLength = 2048

    /// `/`
    public static let root = XenstorePath(unchecked: "/")
    /// Fires when a domain was introduced to xenstore.
    public static let introduceDomain = XenstorePath(unchecked: "@introduceDomain")
    /// Fires when a domain shut down, crashed or went.
    public static let releaseDomain = XenstorePath(unchecked: "@releaseDomain")

    public let description: String

    /// Checks the path against the rules of is_valid_nodename (xenstored_core.c).
    public init(_ text: String) throws(XenstoreError) {
        if let rule = XenstorePath.brokenRule(text) { throw .invalidArgument(rule) }
        description = text
    }

    private init(unchecked text: String) {
        description = text
    }

    /// `/local/domain/<domain>`
    public static func domain(_ domain: some BinaryInteger) -> XenstorePath {
        XenstorePath(unchecked: "/local/domain/\(domain.magnitude)")
    }

    /// A path below this one; `relative` may have several components.
    public func appending(_ relative: String) throws(XenstoreError) -> XenstorePath {
        try XenstorePath(self == .root ? "/" + relative : description + "/" + relative)
    }

    /// The path without its last component; nil for the root and for special paths.
    public var parent: XenstorePath? {
        guard !isSpecial, self != .root, let slash = description.lastIndex(of: "/") else { return nil }
        return slash == description.startIndex ? .root : XenstorePath(unchecked: String(description[..<slash]))
    }

    /// The components of an absolute path, from the root.
    public var components: [String] { description.split(separator: "/").map(String.init) }

    /// Whether this names an event instead of a node.
    public var isSpecial: Bool { description.utf8.first == UInt8(ascii: "@") }

    /// Whether `other` is this path or lies below it.
    public func contains(_ other: XenstorePath) -> Bool {
        if other == self { return true }
        return other.description.hasPrefix(self == .root ? "/" : description + "/")
    }
}

extension XenstorePath {
    /// What is wrong with a path, in words; nil if it is valid.
    private static func brokenRule(_ text: String) -> String? {
        let bytes = Array(text.utf8)
        if bytes.isEmpty { return "a path must not be empty" }
        if bytes.count > maximumLength { return "a path of \(bytes.count) bytes exceeds \(maximumLength)" }
        // Only now is it short enough to be quoted.
        let quoted = "path '\(text)'"
        if bytes.first != slash, bytes.first != at { return "\(quoted) must start with '/' or '@'" }
        if !bytes.allSatisfy(isPathByte) { return "\(quoted) must consist of [A-Za-z0-9-/_@]" }
        if bytes.count > 1, bytes.last == slash { return "\(quoted) must not end with '/'" }
        if zip(bytes, bytes.dropFirst()).contains(where: { $0 == slash && $1 == slash }) {
            return "\(quoted) must not contain '//'"
        }
        if bytes.count - domainPrefixLength(bytes) > maximumRelativeLength {
            return "\(quoted) exceeds \(maximumRelativeLength) bytes below its domain's directory"
        }
        return nil
    }

    /// The length of a leading `/local/domain/<N>/`, which does not count against the relative limit; else 0.
    private static func domainPrefixLength(_ bytes: [UInt8]) -> Int {
        let prefix = Array("/local/domain/".utf8)
        guard bytes.starts(with: prefix) else { return 0 }
        let digits = bytes.dropFirst(prefix.count).prefix { isDigit($0) }.count
        let end = prefix.count + digits
        guard (1...5).contains(digits), end < bytes.count, bytes[end] == slash else { return 0 }
        return end + 1
    }

    private static let slash = UInt8(ascii: "/")
    private static let at = UInt8(ascii: "@")

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }

    private static func isPathByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"): true
        case UInt8(ascii: "-"), UInt8(ascii: "_"), slash, at: true
        default: isDigit(byte)
        }
    }
}
