internal import XenWire
internal import Xenstore

/// A change that a client asked for.
enum XenstoreMutation: Sendable {
    case write(XenstorePath, [UInt8])
    case makeDirectory(XenstorePath)
    case remove(XenstorePath)
    case setPermissions(XenstorePath, XenstorePermissions)

    var path: XenstorePath {
        switch self {
        case .write(let path, _), .makeDirectory(let path), .remove(let path), .setPermissions(let path, _): path
        }
    }

    func apply(
        to tree: inout XenstoreTree, by domain: DomainID
    ) throws(XenstoreErrorName) -> [XenstoreTree.Change] {
        switch self {
        case .write(let path, let value): try tree.write(path, value, by: domain)
        case .makeDirectory(let path): try tree.makeDirectory(path, by: domain)
        case .remove(let path): try tree.remove(path, by: domain)
        case .setPermissions(let path, let permissions): try tree.setPermissions(path, permissions, by: domain)
        }
    }
}

/// An open transaction: a snapshot, what was looked at, and what is to be changed.
///
/// The conflict rule is C xenstored's, the stricter one: everything that was accessed must be as it was, and a new child
/// is a change of its parent.
struct XenstoreOpenTransaction: Sendable {
    private let base: XenstoreTree
    private(set) var tree: XenstoreTree
    private var accessed: Set<XenstorePath> = []
    private var mutations: [XenstoreMutation] = []

    init(of tree: XenstoreTree) {
        base = tree
        self.tree = tree
    }

    mutating func noteAccess(to path: XenstorePath) {
        accessed.insert(path)
    }

    mutating func apply(_ mutation: XenstoreMutation, by domain: DomainID) throws(XenstoreErrorName) {
        accessed.insert(mutation.path)
        accessed.insert(tree.nearestAncestor(mutation.path))
        if case .remove(let path) = mutation { accessed.formUnion(tree.subtree(path)) }
        _ = try mutation.apply(to: &tree, by: domain)
        mutations.append(mutation)
    }

    /// Makes the changes in the store itself, each path reported once; EAGAIN, and nothing done, after a conflict.
    func commit(
        to store: inout XenstoreTree, by domain: DomainID
    ) throws(XenstoreErrorName) -> [XenstoreTree.Change] {
        for path in accessed where store.generation(of: path) != base.generation(of: path) { throw .again }
        var result = store
        var changes: [XenstoreTree.Change] = []
        for mutation in mutations { changes += try mutation.apply(to: &result, by: domain) }
        store = result
        var seen: Set<XenstorePath> = []
        return changes.filter { seen.insert($0.path).inserted }
    }
}
