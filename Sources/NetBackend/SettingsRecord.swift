internal import Xenbus
internal import Xenstore

/// What the toolstack's nodes said of an interface when they were last understood, as a short record keeps it: `name value`
/// in lines.
enum SettingsRecord {
    /// - Parameter nodes: text without line breaks, as all that `InterfaceSettings` takes.
    static func text(_ nodes: NodeValues) -> String {
        nodes.compactMap { name, value in value.text.map { "\(name) \($0)\n" } }.sorted().joined()
    }

    /// To be judged as if they came from xenstore. Lines that are none say nothing.
    static func nodes(in text: String) -> NodeValues {
        let pairs = text.split(separator: "\n")
            .map { $0.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false) }
        return NodeValues(
            pairs.filter { $0.count == 2 }.map { (String($0[0]), XenstoreValue(Array($0[1].utf8))) },
            uniquingKeysWith: { $1 })
    }
}
