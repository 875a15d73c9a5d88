/// Whose ring a journal belongs to, as named facts: what must be the same again before anything in it is believed.
///
/// Text, so that a person can read it in the file, and an older or newer version can compare what it knows and leave the
/// rest.
public struct JournalIdentity: Equatable, Sendable {
    public let facts: [Fact]

    /// `rings`: `8 9 port 3`
    public struct Fact: Equatable, Sendable {
        public let name: String
        public let value: String

        /// What would break the text is left out of the value.
        public init(_ name: String, _ value: some CustomStringConvertible) {
            self.name = name
            self.value = String(value.description.unicodeScalars.filter { $0.value >= 0x20 })
        }
    }

    public init(_ facts: [Fact]) { self.facts = facts }

    /// `name value` in lines.
    var text: String { facts.map { "\($0.name) \($0.value)\n" }.joined() }

    /// Lines that are none are left out: they cannot be equal to anything that is asked for.
    init(text: String) {
        facts = text.split(separator: "\n").compactMap { line in
            line.firstIndex(of: " ").map { Fact(String(line[..<$0]), String(line[line.index(after: $0)...])) }
        }
    }

    public subscript(name: String) -> String? { facts.first { $0.name == name }?.value }

    /// The first fact of ours that is another here.
    public func difference(from expected: JournalIdentity) -> JournalRefusal? {
        for fact in expected.facts where self[fact.name] != fact.value {
            return .otherRing(fact.name, found: self[fact.name] ?? "nothing", expected: fact.value)
        }
        return nil
    }
}

/// Why there is no journal of a guest's rings.
public enum JournalAbsence: Error, Equatable, Sendable, CustomStringConvertible {
    /// The guest has made itself other rings since, which nobody has served yet.
    case otherRings
    /// There is none of this guest's; why not.
    case nothing(String)

    public var description: String {
        switch self {
        case .otherRings: "the guest has made itself new rings"
        case .nothing(let reason): reason
        }
    }
}

/// Why a journal is not believed.
public enum JournalRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    /// It is none, or half made, or of a version that is not known.
    case notAJournal(String)
    /// It belongs to something else.
    case otherRing(String, found: String, expected: String)
    /// Its contents contradict themselves or the ring.
    case contradicts(String)

    public var description: String {
        switch self {
        case .notAJournal(let what): "no journal: \(what)"
        case .otherRing(let name, let found, let expected): "the journal's \(name) is \(found), not \(expected)"
        case .contradicts(let rule): "the journal does not fit the ring: \(rule)"
        }
    }
}
