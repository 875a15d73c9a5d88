import Descriptors
import NetBackend
import SharedRing
import XenWire

// What a guest has set, in its interface's journal.

/// Stores settings twice, so that both copies are there: a full multicast list and a table that is not, and the other way
/// round. Where nothing is stored lies what would do for either: one too many is not found by its value.
func fuzzStore(_ journal: Journal) {
    // Behind the first word, and short of the control ring's record.
    _ = unsafe journal.body[8..<PolicyRecord.controlOffset].initializeMemory(as: UInt8.self, repeating: 1)
    for (groups, entries) in [(UInt8(ReceivePolicy.largestList), 100), (0, ControlRequest.largestMapping)] {
        let hash = HashSettings(
            queues: 4, algorithm: .toeplitz, types: .all, key: (1...40).map { UInt8($0) },
            mapping: (0..<entries).map { UInt8($0 % 4) })
        var policy = ReceivePolicy(hash: hash)
        policy.groups = Set((0..<groups).map { MACAddress(1, 0, 0x5E, 0, 0, $0) })
        PolicyRecord(journal: journal).store(policy)
    }
}

/// Says which copy counts.
func chooseSettings(_ file: FuzzedFile, copy: UInt8) {
    // The lowest bit of the body's first word.
    unsafe file.file.base.storeBytes(of: copy, toByteOffset: Journal.headerSize, as: UInt8.self)
}

/// Makes the checksum of the copy that counts right again.
func sealSettings(_ file: FuzzedFile) {
    let number = unsafe file.file.base.load(fromByteOffset: Journal.headerSize, as: UInt8.self)
    let start = Journal.headerSize + 64 + 1024 * Int(number & 1)
    file.seal(start, 1016, at: start + 1016)
}

/// What is loaded could have been set, and is the same when it was stored again.
func fuzzLoad(_ journal: Journal, _ queues: Int) throws(JournalRefusal) {
    let record = PolicyRecord(journal: journal)
    let policy = try record.load(queues: queues)
    precondition(policy.groups.count <= ReceivePolicy.largestList, "a multicast list without end")
    precondition(policy.groups.allSatisfy { $0.isMulticast && $0.rawValue >> 48 == 0 }, "an address of no group")
    let hash = policy.hash
    precondition(hash.key.count == ControlRequest.longestKey && hash.types.isSubset(of: .all))
    precondition(hash.mapping.count <= ControlRequest.largestMapping, "a table without end")
    precondition(hash.mapping.allSatisfy { Int($0) < queues }, "a queue that there is not")
    record.store(policy)
    let again = try record.load(queues: queues)
    precondition(again.groups == policy.groups && again.hash == hash, "other settings than were stored")
}
