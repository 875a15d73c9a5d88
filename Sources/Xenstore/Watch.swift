/// A watch of one client; stays the same over a reconnect.
public struct XenstoreWatch: Hashable, Sendable {
    let number: UInt64
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
    private var pending: [XenstoreWatch] = []
    private var isPending: Set<XenstoreWatch> = []
    private var lastNumber: UInt64 = 0

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
        if isPending.remove(watch) != nil { pending.removeAll { $0 == watch } }
        return (registration.path, registration.token)
    }

    /// Takes an event's payload: `path NUL token NUL`.
    mutating func note(_ payload: [UInt8]) throws(XenstoreError) {
        guard let strings = payload.nulTerminatedStrings, strings.count >= 2 else {
            throw .protocolViolation("a watch event without path and token")
        }
        guard let token = XenstoreValue(Array(strings[1])).unsigned(atMost: .max), let watch = tokens[token] else {
            return
        }
        markPending(watch)
    }

    mutating func markAllPending() {
        registered.forEach { markPending($0) }
    }

    mutating func forgetPending() {
        pending = []
        isPending = []
    }

    mutating func takePending() -> [XenstoreWatch] {
        defer { forgetPending() }
        return pending
    }

    private mutating func markPending(_ watch: XenstoreWatch) {
        if isPending.insert(watch).inserted { pending.append(watch) }
    }

    private mutating func newNumber() -> UInt64 {
        lastNumber &+= 1
        return lastNumber
    }
}
