public import Descriptors
public import SharedRing
public import XenWire

/// What a discard may touch, all in 512-byte sectors.
public struct DiscardRules: Sendable, Equatable {
    /// `discard-granularity`; at least 1.
    public var granularity: UInt64
    /// `discard-alignment`: the offset of the first whole unit.
    public var alignment: UInt64

    /// Both; a granularity of 0 counts as 1.
    public init(granularity: UInt64, alignment: UInt64) {
        self.granularity = max(granularity, 1)
        self.alignment = alignment % max(granularity, 1)
    }

    /// The part of a range that is whole units, or nil if there is none: a discard shrinks inward, never outward.
    ///
    /// - Parameter count: sectors from `sector`; their end is known to lie on the device.
    public func inward(sector: UInt64, count: UInt64) -> Range<UInt64>? {
        let (end, overflow) = sector.addingReportingOverflow(count)
        guard !overflow, end >= alignment else { return nil }
        let last = (end - alignment) / granularity * granularity + alignment
        let skipped = sector > alignment ? sector - alignment : 0
        let units = skipped / granularity + (skipped % granularity > 0 ? 1 : 0)
        let (offset, tooFar) = units.multipliedReportingOverflow(by: granularity)
        let (first, beyond) = offset.addingReportingOverflow(alignment)
        guard !tooFar, !beyond, first < last else { return nil }
        return first..<last
    }
}

/// Everything that one queue is told when a frontend connects.
public struct QueueConfiguration: Sendable {
    /// For thread names and messages: `vbd-1-51712.0`.
    public var name: String
    /// The frontend's domain, from the backend's own path.
    public var domain: DomainID
    /// The request layout.
    public var abi: BlockABI
    /// The ring's pages in order: 1, 2, 4, 8 or 16.
    public var ringReferences: [GrantReference]
    /// The frontend's port.
    public var eventPort: EventPort
    /// What the device offers.
    public var limits: RequestLimits
    /// Bytes of buffer memory at most.
    public var bufferCeiling: Int
    /// Bytes that operations on the volume must be aligned to: the volume's logical block size with O_DIRECT, else 512.
    /// Writes that are not are done as read-modify-write.
    public var volumeBlock: UInt32
    /// What a discard may touch.
    public var discard: DiscardRules
    /// A full volume pauses the device instead of failing the write.
    public var pausesWhenFull: Bool
    /// The volume is `null`: pages of data are neither read nor written, for measuring the way to and from the guest.
    public var isNull: Bool
    /// The queue may look at its ring, and for the volume's answer, for a while before it sleeps. Never where there is only
    /// one processor: the kernel threads that end its operations, and a frontend in the same domain, need that one.
    public var mayPoll: Bool
    /// For how many of the guest's pages, of all queues, this process may keep mappings; nil: the frontend does not keep
    /// its pages granted.
    public var mappedPages: MappedPageBudget?
    /// Where a fresh ring's private indices start; nil: behind the last response on it, which is 0.
    public var firstIndex: UInt32?
    /// The queue's number in its device.
    public var index: Int
    /// Where what is in flight is kept for the next process; nil: nowhere.
    public var journal: Journal?
    /// The journal is an earlier process's: what it left unanswered is done again.
    public var recovers: Bool
    /// What has to be over before the first operation is started; nil: nothing.
    public var fence: VolumeFence?

    /// All of it.
    public init(
        name: String, domain: DomainID, abi: BlockABI, ringReferences: [GrantReference], eventPort: EventPort,
        limits: RequestLimits, bufferCeiling: Int = 8 << 20, volumeBlock: UInt32 = 512,
        discard: DiscardRules = DiscardRules(granularity: 1, alignment: 0), pausesWhenFull: Bool = true,
        isNull: Bool = false, mayPoll: Bool = true, mappedPages: MappedPageBudget? = nil, firstIndex: UInt32? = nil,
        index: Int = 0, journal: Journal? = nil, recovers: Bool = false, fence: VolumeFence? = nil
    ) {
        self.name = name
        self.domain = domain
        self.abi = abi
        self.ringReferences = ringReferences
        self.eventPort = eventPort
        self.limits = limits
        self.bufferCeiling = bufferCeiling
        self.volumeBlock = volumeBlock
        self.discard = discard
        self.pausesWhenFull = pausesWhenFull
        self.isNull = isNull
        self.mayPoll = mayPoll
        self.mappedPages = mappedPages
        self.firstIndex = firstIndex
        self.index = index
        self.journal = journal
        self.recovers = recovers
        self.fence = fence
    }
}

/// How a queue is doing.
public enum QueueCondition: Sendable, Equatable {
    /// Serving requests, or ready to.
    case running
    /// The ring was stopped for good because the guest broke a rule.
    case violated(Violation)
    /// The host failed in a way that must not be answered with an error (a flush): the device stops.
    case failed(Fault)
    /// The volume is full; writes are held and tried again.
    case paused(Fault)
}
