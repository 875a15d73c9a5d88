/// A watch of one client; stays the same over a reconnect.
public struct XenstoreWatch: Hashable, Sendable {
    let number: UInt64
}

/// Where something has changed, as far as is known.
public struct XenstoreChange: Equatable, Sendable {
    public let watch: XenstoreWatch
    /// Names of the watched node's children at or below which something changed; nil: anything may have changed.
    public let children: Set<String>?

    public init(_ watch: XenstoreWatch, children: Set<String>?) {
        self.watch = watch
        self.children = children
    }
}

/// A client's watches and which of them have fired: one place per watch, however many events arrive (XSA-349).
struct WatchTable {
    private struct Registration {
        let path: XenstorePath
        /// What the server calls this watch. New with every registration, so that an event of an ended one, which may
        /// still be on its way (docs/misc/xenstore.txt), is told apart.
        var token: UInt64
    }

    private var registrations: [XenstoreWatch: Registration] = [:]
    private var tokens: [UInt64: XenstoreWatch] = [:]
    /// In the order in which they fired first, and what is known of each.
    private var pending: [XenstoreWatch] = []
    private var children: [XenstoreWatch: Set<String>?] = [:]
    private var lastNumber: UInt64 = 0

    /// Names that are kept per watch; who makes more of them change has everything read again.
    private static let mostChildren = 64

    /// All watches, oldest first.
    var registered: [XenstoreWatch] { registrations.keys.sorted { $0.number < $1.number } }
    var hasPending: Bool { !pending.isEmpty }

    /// A new watch that no token leads to yet.
    mutating func add(_ path: XenstorePath) -> XenstoreWatch {
        let watch = XenstoreWatch(number: newNumber())
        registrations[watch] = Registration(path: path, token: 0)
        return watch
    }

    /// Gives a watch a token for another registration.
    mutating func renewToken(_ watch: XenstoreWatch) -> (path: XenstorePath, token: UInt64)? {
        guard let old = registrations[watch] else { return nil }
        let token = newNumber()
        tokens[old.token] = nil
        tokens[token] = watch
        registrations[watch]?.token = token
        return (old.path, token)
    }

    @discardableResult
    mutating func remove(_ watch: XenstoreWatch) -> (path: XenstorePath, token: UInt64)? {
        guard let registration = registrations.removeValue(forKey: watch) else { return nil }
        tokens[registration.token] = nil
        if children.removeValue(forKey: watch) != nil { pending.removeAll { $0 == watch } }
        return (registration.path, registration.token)
    }

    /// Takes an event's payload: `path NUL token NUL`.
    mutating func note(_ payload: [UInt8]) throws(XenstoreError) {
        guard let strings = payload.nulTerminatedStrings, strings.count >= 2 else {
            throw .protocolViolation("a watch event without path and token")
        }
        guard let token = XenstoreValue(Array(strings[1])).unsigned(atMost: .max), let watch = tokens[token],
            let watched = registrations[watch]?.path
        else { return }
        markPending(watch, child: Self.child(of: watched, in: strings[0]))
    }

    /// The part of a path that comes after a watched one; nil if there is none.
    private static func child(of watched: XenstorePath, in path: some Collection<UInt8>) -> String? {
        let prefix = Array((watched.description + "/").utf8)
        guard path.starts(with: prefix) else { return nil }
        let name = path.dropFirst(prefix.count).prefix { $0 != UInt8(ascii: "/") }
        return name.isEmpty ? nil : String(decoding: name, as: UTF8.self)
    }

    mutating func markAllPending() {
        registered.forEach { markPending($0, child: nil) }
    }

    mutating func forgetPending() {
        pending = []
        children = [:]
    }

    mutating func takePending() -> [XenstoreChange] {
        defer { forgetPending() }
        return pending.map { XenstoreChange($0, children: children[$0] ?? nil) }
    }

    private mutating func markPending(_ watch: XenstoreWatch, child: String?) {
        guard let known = children[watch] else {
            pending.append(watch)
            children[watch] = .some(child.map { [$0] })
            return
        }
        guard let known, let child, known.count < Self.mostChildren || known.contains(child) else {
            children[watch] = .some(nil)
            return
        }
        children[watch] = known.union([child])
    }

    private mutating func newNumber() -> UInt64 {
        lastNumber &+= 1
        return lastNumber
    }
}
