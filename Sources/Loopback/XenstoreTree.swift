internal import XenWire
internal import Xenstore

/// What a domain without privilege may use of xenstore; dom0 is exempt (defaults of C xenstored 4.17).
public struct XenstoreQuota: Sendable {
    public var nodes = 1000
    public var watches = 128
    public var valueBytes = 2048
    public var transactions = 10

    public init() {}
}

/// The nodes of xenstore, with permissions and quotas checked on every operation. A copy is a snapshot.
struct XenstoreTree: Sendable {
    struct Node: Sendable {
        var value: [UInt8] = []
        var permissions: XenstorePermissions
        /// Names, oldest first.
        var children: [String] = []
        /// Changes with the value, the permissions and the list of children.
        var generation: UInt64
    }

    /// What a watch may want to hear of.
    struct Change: Sendable {
        let path: XenstorePath
        /// The node's, before it was removed if it was; they decide who may hear of it (XSA-115).
        let permissions: XenstorePermissions
        /// A node that went with its parent: of interest to watches on exactly this path.
        let isBelowRemoved: Bool
    }

    private var nodes: [XenstorePath: Node] = [:]
    private var ownedNodes: [DomainID: Int] = [:]
    private var lastGeneration: UInt64 = 0
    private let quota: XenstoreQuota

    init(quota: XenstoreQuota) {
        self.quota = quota
        for path in [XenstorePath.root, .introduceDomain, .releaseDomain] {
            insert(path, owner: XenstorePermissions(owner: .privileged))
        }
    }

    /// Unique to one state of one node; nil if there is none.
    func generation(of path: XenstorePath) -> UInt64? { nodes[path]?.generation }

    func permissions(of path: XenstorePath) -> XenstorePermissions? { nodes[path]?.permissions }

    /// The node, and all below it, parents first.
    func subtree(_ path: XenstorePath) -> [XenstorePath] {
        guard let node = nodes[path] else { return [] }
        return [path] + node.children.flatMap { name in (try? path.appending(name)).map(subtree) ?? [] }
    }

    /// The nodes that a domain owns, parents before children.
    func owned(by domain: DomainID) -> [XenstorePath] {
        nodes.filter { $0.value.permissions.owner == domain }.map(\.key)
            .sorted { $0.description < $1.description }
    }
}

// Reading.
extension XenstoreTree {
    func readable(_ path: XenstorePath, by domain: DomainID) throws(XenstoreErrorName) -> Node {
        guard let node = nodes[path] else { throw missing(path, for: domain) }
        guard node.permissions.access(of: domain).allowsReading else { throw .accessDenied }
        return node
    }

    /// The nearest ancestor that exists. The root always does.
    func nearestAncestor(_ path: XenstorePath) -> XenstorePath {
        var candidate = path.parent ?? .root
        while nodes[candidate] == nil, let parent = candidate.parent { candidate = parent }
        return candidate
    }

    /// A domain that may not read where a node would be does not learn that it is missing.
    private func missing(_ path: XenstorePath, for domain: DomainID) -> XenstoreErrorName {
        let access = nodes[nearestAncestor(path)]?.permissions.access(of: domain) ?? .none
        return access.allowsReading ? .noEntry : .accessDenied
    }
}

// Changing.
extension XenstoreTree {
    mutating func write(
        _ path: XenstorePath, _ value: [UInt8], by domain: DomainID
    ) throws(XenstoreErrorName) -> [Change] {
        if !domain.isPrivileged, value.count > quota.valueBytes { throw .noSpace }
        if let node = nodes[path] {
            guard node.permissions.access(of: domain).allowsWriting else { throw .accessDenied }
        } else {
            try create(path, by: domain)
        }
        nodes[path]?.value = value
        touch(path)
        return changes([path])
    }

    mutating func makeDirectory(_ path: XenstorePath, by domain: DomainID) throws(XenstoreErrorName) -> [Change] {
        if let node = nodes[path] {
            guard node.permissions.access(of: domain).allowsWriting else { throw .accessDenied }
            return []
        }
        try create(path, by: domain)
        return changes([path])
    }

    mutating func remove(_ path: XenstorePath, by domain: DomainID) throws(XenstoreErrorName) -> [Change] {
        guard let parent = path.parent else { throw .invalid }
        guard let node = nodes[path] else {
            guard nodes[parent] != nil else { throw .noEntry }
            _ = try readable(parent, by: domain)
            return []
        }
        guard node.permissions.access(of: domain).allowsWriting else { throw .accessDenied }
        return removeSubtree(path)
    }

    mutating func setPermissions(
        _ path: XenstorePath, _ permissions: XenstorePermissions, by domain: DomainID
    ) throws(XenstoreErrorName) -> [Change] {
        guard let node = nodes[path] else { throw missing(path, for: domain) }
        let owner = node.permissions.owner
        guard domain.isPrivileged || owner == domain else { throw .accessDenied }
        guard domain.isPrivileged || permissions.owner == owner else { throw .notPermitted }
        count(owner, -1)
        count(permissions.owner, 1)
        nodes[path]?.permissions = permissions
        touch(path)
        return changes([path])
    }

    /// Removes a node and all below it; the first change is the node itself.
    mutating func removeSubtree(_ path: XenstorePath) -> [Change] {
        let changes = changes(subtree(path))
        if changes.isEmpty { return [] }
        for change in changes {
            if let node = nodes.removeValue(forKey: change.path) { count(node.permissions.owner, -1) }
        }
        if let parent = path.parent, let name = path.components.last {
            nodes[parent]?.children.removeAll { $0 == name }
            touch(parent)
        }
        return changes
    }

    private func changes(_ paths: [XenstorePath]) -> [Change] {
        paths.enumerated().compactMap { index, path in
            nodes[path].map { Change(path: path, permissions: $0.permissions, isBelowRemoved: index > 0) }
        }
    }

    /// Creates an empty node and its missing parents. They inherit permissions, but belong to the domain that creates
    /// them unless it is privileged.
    private mutating func create(_ path: XenstorePath, by domain: DomainID) throws(XenstoreErrorName) {
        let ancestor = nearestAncestor(path)
        guard !path.isSpecial, var permissions = nodes[ancestor]?.permissions else { throw .invalid }
        guard permissions.access(of: domain).allowsWriting else { throw .accessDenied }
        let missing = missingPaths(from: ancestor, to: path)
        if !domain.isPrivileged {
            guard ownedNodes[domain, default: 0] + missing.count <= quota.nodes else { throw .noSpace }
            permissions.owner = domain
        }
        for path in missing { insert(path, owner: permissions) }
    }

    /// `path` and its ancestors up to, but not including, `ancestor`; parents first.
    private func missingPaths(from ancestor: XenstorePath, to path: XenstorePath) -> [XenstorePath] {
        var paths: [XenstorePath] = []
        var next: XenstorePath? = path
        while let path = next, path != ancestor {
            paths.append(path)
            next = path.parent
        }
        return paths.reversed()
    }

    private mutating func insert(_ path: XenstorePath, owner permissions: XenstorePermissions) {
        nodes[path] = Node(permissions: permissions, generation: 0)
        count(permissions.owner, 1)
        touch(path)
        if let parent = path.parent, let name = path.components.last {
            nodes[parent]?.children.append(name)
            touch(parent)
        }
    }

    private mutating func count(_ owner: DomainID, _ difference: Int) {
        ownedNodes[owner, default: 0] += difference
    }

    private mutating func touch(_ path: XenstorePath) {
        lastGeneration += 1
        nodes[path]?.generation = lastGeneration
    }
}

extension DomainID {
    static let privileged = DomainID(0)
    var isPrivileged: Bool { self == .privileged }
}
