internal import NetFrames
package import SharedRing
internal import Synchronization
package import XenWire

/// What a guest wants of the frames that it gets, and which of them.
package struct ReceivePolicy: Sendable {
    /// Groups that do not lie in `groups` are kept back.
    var filtersGroups = false
    /// The guest's multicast list.
    package var groups: Set<MACAddress> = []
    /// Bytes of each packet's first page that are left to the guest, for what it puts in front (XDP).
    var headroom = 0
    package var hash: HashSettings

    package init(hash: HashSettings) { self.hash = hash }

    /// As xen-netback: XEN_NETBK_MCAST_MAX.
    package static let largestList = 64

    /// One change of the multicast list; false if it cannot be. Leaving what was never joined is no fault.
    mutating func change(_ change: ExtraInfo) -> Bool {
        switch change {
        case .joinMulticast(let address):
            guard address.isMulticast else { return false }
            guard !groups.contains(address) else { return true }
            guard groups.count < Self.largestList else { return false }
            groups.insert(address)
            return true
        case .leaveMulticast(let address):
            groups.remove(address)
            return true
        default: return false
        }
    }
}

/// The policy of an interface, changed by its queues, its control ring and its nodes, and read by all queues: each follows
/// changes at the beginning of a turn, so that a packet costs neither a lock nor an atomic access.
public final class SharedReceivePolicy: Sendable {
    private let policy: Mutex<ReceivePolicy>
    /// Grows with each change.
    private let version = Atomic<UInt64>(1)
    /// Where it is kept for the next process.
    let journal: Journal?

    /// What no guest has set anything of, and nobody keeps.
    public init(queues: Int = 1) {
        policy = Mutex(ReceivePolicy(hash: HashSettings(queues: queues)))
        journal = nil
    }

    /// What the journal keeps, perhaps of an earlier process.
    ///
    /// - Parameter queues: of the connection; what a guest may steer packets to.
    package init(keeping journal: Journal, queues: Int) throws(JournalRefusal) {
        policy = Mutex(try PolicyRecord(journal: journal).load(queues: queues))
        self.journal = journal
    }

    /// The policy, if it is another one than at `seen`.
    func changed(since seen: inout UInt64) -> ReceivePolicy? {
        // A change that comes between the two reads is seen twice, which does no harm.
        let now = version.load(ordering: .acquiring)
        guard now != seen else { return nil }
        seen = now
        return policy.withLock { $0 }
    }

    var current: ReceivePolicy { policy.withLock { $0 } }

    func change<Result: Sendable>(_ body: (inout ReceivePolicy) -> Result) -> Result {
        defer { version.add(1, ordering: .releasing) }
        return policy.withLock { policy in
            let before = policy
            let result = body(&policy)
            if let journal, policy.groups != before.groups || policy.hash != before.hash {
                PolicyRecord(journal: journal).store(policy)
            }
            return result
        }
    }
}

/// A queue's own copy of the policy, in plain memory.
struct ReceiveRules: ~Copyable {
    private(set) var headroom = 0
    private var filtersGroups = false
    private let groups = FixedTable<UInt64>(repeating: 0, count: ReceivePolicy.largestList)
    private var groupCount = 0
    private var types: HashTypes = []
    private let key = FixedTable<UInt8>(repeating: 0, count: ControlRequest.longestKey)
    private var seen: UInt64 = 0

    /// The guest wants all frames as they are.
    var isPlain: Bool { @_noLocks get { headroom == 0 && !filtersGroups && types.isEmpty } }

    /// Follows a change, if there was one.
    mutating func follow(_ shared: SharedReceivePolicy) {
        guard let policy = shared.changed(since: &seen) else { return }
        headroom = policy.headroom
        filtersGroups = policy.filtersGroups
        groupCount = 0
        for address in policy.groups {
            groups[groupCount] = address.rawValue
            groupCount += 1
        }
        types = policy.hash.activeTypes
        for (index, byte) in policy.hash.key.enumerated() { key[index] = byte }
    }

    /// The guest wants this frame of at least an Ethernet header: it is to one station, to all, or to a group on the list.
    mutating func admits(_ frame: UnsafeRawPointer) -> Bool {
        guard filtersGroups else { return true }
        // The first six of 14 bytes.
        let address = unsafe FrameHeaders.destination(frame)
        guard address.isMulticast, address != .broadcast else { return true }
        for index in 0..<groupCount where groups[index] == address.rawValue { return true }
        return false
    }

    /// The frame's hash, if the guest asked for one that fits.
    mutating func hash(_ frame: UnsafeRawPointer, _ count: Int) -> PacketHash? {
        // The table has as many bytes as a key, and lives as long as this value.
        types.isEmpty ? nil : unsafe FlowHash.of(frame, count: count, types, key: UnsafePointer(key.pointer))
    }
}
