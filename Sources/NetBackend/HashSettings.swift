internal import Tap
package import XenWire

/// How a guest wants its packets hashed and steered to its queues: what it set on the control ring.
package struct HashSettings: Sendable, Equatable {
    /// Queues that it has.
    let queues: Int
    private(set) var algorithm = HashAlgorithm.none
    package private(set) var types: HashTypes = []
    /// `ControlRequest.longestKey` bytes; a shorter key ends in zeros.
    package private(set) var key = [UInt8](repeating: 0, count: ControlRequest.longestKey)
    /// Which queue a hash belongs to, by its remainder; empty: the queue with the number of the remainder.
    package private(set) var mapping: [UInt8] = []

    init(queues: Int) { self.queues = queues }

    /// As they were set once.
    package init(queues: Int, algorithm: HashAlgorithm, types: HashTypes, key: [UInt8], mapping: [UInt8]) {
        self.queues = queues
        self.algorithm = algorithm
        self.types = types
        self.key = key
        self.mapping = mapping
    }

    /// What is hashed now.
    var activeTypes: HashTypes { algorithm == .none ? [] : types }

    /// Reads the beginning of a guest's page; nil if it is not granted.
    typealias PageReader = (_ page: GrantReference, _ bytes: Int) -> [UInt8]?

    /// Does what a request says, all of it or nothing; returns the response's data.
    ///
    /// - Throws: the status to answer with. They are xen-netback's, but for keys and tables that are too long
    ///   (BUFFER_OVERFLOW, as netif.h has it).
    mutating func apply(_ request: ControlRequest, _ read: PageReader) throws(ControlStatus) -> UInt32 {
        switch request {
        case .getHashTypes:
            guard algorithm != .none else { throw .notSupported }
            return HashTypes.all.rawValue
        case .setHashTypes(let types):
            guard algorithm != .none else { throw .invalidParameter }
            self.types = types
        case .setHashKey(let page, let length): try setKey(page, length, read)
        case .getMappingSize: return UInt32(ControlRequest.largestMapping)
        case .setMappingSize(let count): mapping = [UInt8](repeating: 0, count: count)
        case .setMapping(let page, let count, let offset): try setMapping(page, count, offset, read)
        case .setAlgorithm(let algorithm): self.algorithm = algorithm
        }
        return 0
    }

    private mutating func setKey(_ page: GrantReference, _ length: Int, _ read: PageReader) throws(ControlStatus) {
        let bytes = try content(page, length, read)
        key = bytes + [UInt8](repeating: 0, count: ControlRequest.longestKey - bytes.count)
    }

    private mutating func setMapping(
        _ page: GrantReference, _ count: Int, _ offset: Int, _ read: PageReader
    ) throws(ControlStatus) {
        // Both are at most the largest table's.
        guard offset + count <= mapping.count else { throw .invalidParameter }
        let bytes = try content(page, count * ControlRequest.mappingEntry, read)
        var table = mapping
        for index in 0..<count {
            let entry = (0..<ControlRequest.mappingEntry).reversed().reduce(UInt32(0)) {
                $0 << 8 | UInt32(bytes[index * ControlRequest.mappingEntry + $1])
            }
            guard entry < queues else { throw .invalidParameter }
            table[offset + index] = UInt8(truncatingIfNeeded: entry)
        }
        mapping = table
    }

    /// Nothing is asked of a page from which no byte is needed.
    private func content(
        _ page: GrantReference, _ bytes: Int, _ read: PageReader
    ) throws(ControlStatus) -> [UInt8] {
        guard bytes > 0 else { return [] }
        guard let content = read(page, bytes) else { throw .invalidParameter }
        return content
    }
}

extension HashSettings {
    /// How frames find their queues; nil: nothing is hashed, and anything will do.
    var steeringTable: SteeringTable? {
        activeTypes.isEmpty
            ? nil : SteeringTable(types: activeTypes.rawValue, key: key, mapping: mapping, queues: queues)
    }
}
