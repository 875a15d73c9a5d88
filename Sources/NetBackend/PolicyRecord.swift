internal import CXen
internal import NetFrames
package import SharedRing
internal import XenWire

/// What a guest has set, as its interface's journal keeps it: its multicast list and its hash settings.
///
/// Two copies lie in the body, and a word that says which one counts: whoever is killed while it writes the other has changed
/// nothing.
///
///     0     number of the last change u64; the copy that counts is that of its lowest bit
///     64    copy 0, copy 1, each 1024 bytes:
///           addresses u16 | entries of the mapping u16 | algorithm u32 | types u32 | key 40 bytes | the mapping, 128 bytes |
///           the addresses, 8 bytes each | checksum of all that, at 1016
///     4096  what the control ring's thread is answering (`AnswerRecord`)
///
/// Used under the policy's lock.
package struct PolicyRecord: Sendable {
    let journal: Journal

    package init(journal: Journal) { self.journal = journal }

    /// Bytes of the journal's body.
    static let bytes = 8192
    package static let controlOffset = 4096
    private static let copySize = 1024
    private static let checksumOffset = 1016
    private static let (keyOffset, mappingOffset, groupsOffset) = (12, 64, 192)

    /// The body's first byte; it is as long as it has to be, or nothing is kept.
    private var base: UnsafeMutableRawPointer? {
        let body = unsafe journal.body
        return body.count >= Self.bytes ? body.baseAddress : nil
    }

    private func copy(_ number: UInt64) -> UnsafeMutableRawPointer? {
        // One of two copies behind the header.
        guard let base = unsafe base else { return nil }
        return unsafe base + 64 + Int(number & 1) * Self.copySize
    }

    package func store(_ policy: ReceivePolicy) {
        guard let base = unsafe base else { return }
        let next = unsafe xen_load_relaxed64(base) &+ 1
        guard let copy = unsafe copy(next) else { return }
        unsafe copy.storeBytes(of: UInt16(policy.groups.count), as: UInt16.self)
        unsafe copy.storeBytes(of: UInt16(policy.hash.mapping.count), toByteOffset: 2, as: UInt16.self)
        unsafe copy.storeBytes(of: policy.hash.algorithm.rawValue, toByteOffset: 4, as: UInt32.self)
        unsafe copy.storeBytes(of: policy.hash.types.rawValue, toByteOffset: 8, as: UInt32.self)
        // Each has room for as much as a policy ever holds.
        unsafe copy.advanced(by: Self.keyOffset).copyMemory(from: policy.hash.key, byteCount: policy.hash.key.count)
        unsafe copy.advanced(by: Self.mappingOffset)
            .copyMemory(from: policy.hash.mapping, byteCount: policy.hash.mapping.count)
        for (place, address) in policy.groups.enumerated() {
            // Below the checksum.
            unsafe copy.storeBytes(
                of: address.rawValue, toByteOffset: Self.groupsOffset + 8 * place, as: UInt64.self)
        }
        unsafe copy.storeBytes(of: Self.checksum(copy), toByteOffset: Self.checksumOffset, as: UInt64.self)
        unsafe xen_store_release64(base, next)
        xen_store_order()
    }

    /// What an earlier process has stored, read as if a guest had written it.
    package func load(queues: Int) throws(JournalRefusal) -> ReceivePolicy {
        guard let base = unsafe base, let copy = unsafe copy(xen_load_acquire64(base)) else {
            throw .contradicts("the guest's settings are too short")
        }
        guard unsafe copy.load(fromByteOffset: Self.checksumOffset, as: UInt64.self) == Self.checksum(copy) else {
            throw .contradicts("the checksum of the guest's settings")
        }
        var policy = ReceivePolicy(hash: unsafe try Self.hash(copy, queues))
        policy.groups = unsafe try Self.groups(copy)
        return policy
    }

    private static func hash(_ copy: UnsafeRawPointer, _ queues: Int) throws(JournalRefusal) -> HashSettings {
        let entries = Int(unsafe copy.load(fromByteOffset: 2, as: UInt16.self))
        guard let algorithm = unsafe HashAlgorithm(rawValue: copy.load(fromByteOffset: 4, as: UInt32.self)),
            entries <= ControlRequest.largestMapping
        else { throw .contradicts("an algorithm or a table that there is not") }
        // The copy has so many bytes.
        let key = unsafe Array(
            UnsafeRawBufferPointer(start: copy + keyOffset, count: ControlRequest.longestKey))
        let mapping = unsafe Array(UnsafeRawBufferPointer(start: copy + mappingOffset, count: entries))
        guard mapping.allSatisfy({ $0 < queues }) else { throw .contradicts("a queue that there is not") }
        let types = unsafe HashTypes(rawValue: copy.load(fromByteOffset: 8, as: UInt32.self))
        return HashSettings(
            queues: queues, algorithm: algorithm, types: types.intersection(.all), key: key, mapping: mapping)
    }

    private static func groups(_ copy: UnsafeRawPointer) throws(JournalRefusal) -> Set<MACAddress> {
        let count = Int(unsafe copy.load(as: UInt16.self))
        guard count <= ReceivePolicy.largestList else { throw .contradicts("\(count) multicast addresses") }
        let addresses = (0..<count).map { place in
            // Below the checksum.
            unsafe MACAddress(rawValue: copy.load(fromByteOffset: groupsOffset + 8 * place, as: UInt64.self))
        }
        guard addresses.allSatisfy(\.isMulticast) else { throw .contradicts("a multicast address that is none") }
        return Set(addresses)
    }

    /// FNV-1a: against what is half written, not against malice.
    private static func checksum(_ copy: UnsafeRawPointer) -> UInt64 {
        var sum: UInt64 = 0xcbf2_9ce4_8422_2325
        // What is in front of it.
        for offset in 0..<checksumOffset {
            sum = unsafe (sum ^ UInt64(copy.load(fromByteOffset: offset, as: UInt8.self))) &* 0x100_0000_01b3
        }
        return sum
    }
}
