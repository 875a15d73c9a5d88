internal import SharedRing
internal import Xenbus
internal import Xenstore

/// What the toolstack's nodes said of an interface when they were last understood, as a short record keeps it: whose it is,
/// and the nodes, `name value` in lines.
enum SettingsRecord {
    /// - Parameter nodes: text without line breaks, as all that `InterfaceSettings` takes.
    static func text(_ nodes: NodeValues, of guest: JournalIdentity) -> String {
        let lines = nodes.compactMap { name, value in value.text.map { "\(name) \($0)\n" } }
        return guest.facts.map { "\(mark($0.name)) \($0.value)\n" }.joined() + lines.sorted().joined()
    }

    /// To be judged as if they came from xenstore. Lines that are none say nothing.
    ///
    /// - Returns: nil if they are another guest's, or of another run of the host.
    static func nodes(in text: String, of guest: JournalIdentity) -> NodeValues? {
        let pairs = text.split(separator: "\n")
            .map { $0.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false) }
        var nodes = NodeValues(
            pairs.filter { $0.count == 2 }.map { (String($0[0]), XenstoreValue(Array($0[1].utf8))) },
            uniquingKeysWith: { $1 })
        for fact in guest.facts {
            guard nodes.removeValue(forKey: mark(fact.name))?.text == fact.value else { return nil }
        }
        return nodes
    }

    /// No node can be called so.
    private static func mark(_ name: String) -> String { "/\(name)" }
}
