internal import Xenstore

/// What a step of a device's life writes into the device's own directory: all of it at once, or nothing.
struct Publication: Equatable {
    /// Changes of keys in their order, by name; nil removes.
    private(set) var keys: [Key] = []
    /// Our own `state` from now on; nil leaves it.
    var state: XenbusState?
    /// Write the state even if it is the same: frontends look at the keys again then.
    var isTouching = false

    struct Key: Equatable {
        let name: String
        let value: String?
    }

    var isEmpty: Bool { keys.isEmpty && state == nil }

    mutating func write(_ published: [PublishedKey]) {
        keys += published.map { Key(name: $0.name, value: $0.value) }
    }

    mutating func remove(_ name: String) { keys.append(Key(name: name, value: nil)) }

    /// What follows in the same step.
    mutating func append(_ other: Publication) {
        keys += other.keys
        state = other.state ?? state
        isTouching = isTouching || other.isTouching
    }

    /// The state comes last: who sees it sees the keys as well.
    func edits(in directory: XenstorePath, now: XenstoreValue) throws(XenstoreError) -> [XenstoreEdit] {
        var edits: [XenstoreEdit] = []
        for key in keys {
            let path = try directory.appending(key.name)
            edits.append(key.value.map { .write(path, $0) } ?? .remove(path))
        }
        // What is only touched stays as it is by now: the toolstack may have written 5 since we looked.
        if let text = isTouching ? now.text : state?.text, isTouching || now.text != text {
            edits.append(.write(try directory.appending("state"), text))
        }
        return edits
    }
}
