public import Xenstore

/// A xenstore key that breaks a rule: what the `error` node then says.
public struct KeyRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    public let key: String
    /// What was found, fit to be shown; nil if the key is missing.
    public let found: String?
    public let rule: String

    public init(_ key: String, _ value: XenstoreValue?, _ rule: String) {
        self.key = key
        found = value.map { $0.description }
        self.rule = rule
    }

    /// `ring-page-order '40': must be 0...4`
    public var description: String { "\(key) \(found.map { "'\($0)'" } ?? "missing"): \(rule)" }
}

/// Keys by name, with the rules that several of them share.
public struct KeyReader {
    public let keys: NodeValues

    public init(_ keys: NodeValues) { self.keys = keys }

    /// A decimal number in a range; `missing` if there is no such key, or a refusal if that is nil.
    public func number(
        _ key: String, in range: ClosedRange<UInt64>, ifMissing missing: UInt64? = nil
    ) throws(KeyRefusal) -> UInt64 {
        guard let value = keys[key] else {
            if let missing { return missing }
            throw KeyRefusal(key, nil, "must be \(range.lowerBound)...\(range.upperBound)")
        }
        guard let number = value.unsigned(atMost: range.upperBound), number >= range.lowerBound else {
            throw KeyRefusal(key, value, "must be \(range.lowerBound)...\(range.upperBound)")
        }
        return number
    }

    /// Exactly 0 or 1.
    public func flag(_ key: String, ifMissing missing: Bool) throws(KeyRefusal) -> Bool {
        guard let value = keys[key] else { return missing }
        guard let flag = value.flag else { throw KeyRefusal(key, value, "must be 0 or 1") }
        return flag
    }

    /// One of some words.
    public func word(_ key: String, of words: [String], ifMissing missing: String) throws(KeyRefusal) -> String {
        guard let value = keys[key] else { return missing }
        guard let text = value.text, words.contains(text) else {
            throw KeyRefusal(key, value, "must be \(words.joined(separator: " or "))")
        }
        return text
    }
}
