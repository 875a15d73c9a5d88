internal import CLinux
internal import Descriptors

/// The kernel's two rings: entries to submit, completions to take. It knows slots and indices, not what they are for.
///
/// Made, used and enabled on one thread (IORING_SETUP_SINGLE_ISSUER). Safe because all pointers lie in mappings that
/// liburing made and that live until `deinit`, and every index is masked with the ring's size.
@safe struct UringRing: ~Copyable {
    /// Completions that fit into the ring.
    let completionEntries: UInt32
    /// The next entry to hand out; the kernel sees it with `publish`.
    private(set) var tail: UInt32
    /// The next completion to take; the kernel sees it with `release`.
    private(set) var head: UInt32
    private var descriptor: Int32
    private var enterFlags: UInt32
    /// liburing's handle, for what is done seldom.
    let ring: UnsafeMutablePointer<io_uring>

    // Indices wrap at 2^32: only &+, &- and equality are ever applied to them.
    private let submissions: UnsafeMutablePointer<io_uring_sqe>
    private let submissionMask: UInt32
    private let submissionHead: UnsafeMutablePointer<UInt32>
    private let submissionTail: UnsafeMutablePointer<UInt32>
    private let submissionFlags: UnsafeMutablePointer<UInt32>
    private let completions: UnsafeMutablePointer<io_uring_cqe>
    private let completionMask: UInt32
    private let completionHead: UnsafeMutablePointer<UInt32>
    private let completionTail: UnsafeMutablePointer<UInt32>

    /// A disabled ring with room for `entries` in both directions.
    init(entries: UInt32) throws(Fault) {
        let made = try unsafe UringSetup.make(entries: entries)
        guard let (sq, cq) = unsafe UringSetup.pointers(of: made) else {
            unsafe UringSetup.destroy(made)
            throw Fault("map io_uring", errno: ENOMEM)
        }
        unsafe ring = made
        unsafe descriptor = made.pointee.ring_fd
        enterFlags = 0
        unsafe submissions = sq.entries
        submissionMask = unsafe made.pointee.sq.ring_mask
        unsafe submissionHead = sq.head
        unsafe submissionTail = sq.tail
        unsafe submissionFlags = sq.flags
        unsafe completions = cq.entries
        completionMask = unsafe made.pointee.cq.ring_mask
        completionEntries = unsafe made.pointee.cq.ring_entries
        unsafe completionHead = cq.head
        unsafe completionTail = cq.tail
        tail = unsafe sq.tail.pointee
        head = unsafe cq.head.pointee
    }

    deinit {
        unsafe UringSetup.destroy(ring)
    }

    // MARK: Set-up, before the first entry

    /// Registers the files that entries name by their index, then allows those submissions and nothing else; no other
    /// file either, if they are `onlyRegistered`.
    mutating func enable(
        files: [Int32], submissions: [UInt8] = UringSetup.engineSubmissions, onlyRegistered: Bool = true
    ) throws(Fault) {
        try unsafe UringSetup.enable(ring, files: files, submissions: submissions, onlyRegistered: onlyRegistered)
        // A registered ring descriptor spares the kernel an fdget per call; without it everything works the same.
        if unsafe io_uring_register_ring_fd(ring) == 1 {
            descriptor = unsafe ring.pointee.enter_ring_fd
            enterFlags = IORING_ENTER_REGISTERED_RING
        }
    }

    /// An empty table for registered buffers; false where the kernel has none (before 5.19).
    mutating func reserveBuffers(_ count: UInt32) -> Bool {
        unsafe io_uring_register_buffers_sparse(ring, count) == 0
    }

    /// Fills (or with `nil` empties) a slot of the buffer table.
    mutating func setBuffer(_ slot: UInt32, _ memory: UnsafeMutableRawBufferPointer?) -> Bool {
        unsafe linux_uring_set_buffer(ring, slot, memory?.baseAddress, memory?.count ?? 0) == 0
    }

    /// Entries may leave out their completion (5.17).
    var canSkipCompletions: Bool { unsafe ring.pointee.features & IORING_FEAT_CQE_SKIP != 0 }

    /// Completions that found the ring full; the kernel keeps them aside, at a price. 0 while the account is right.
    var overflows: UInt32 { unsafe ring.pointee.cq.koverflow?.pointee ?? 0 }

    // MARK: Submission

    /// The next entry to fill. The caller's account guarantees that there is a free one.
    @_noLocks mutating func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        let entry = unsafe submissions + Int(tail & submissionMask)
        tail &+= 1
        return unsafe entry
    }

    /// Takes back the newest entry that the kernel has not consumed; what it was for.
    @_noLocks mutating func withdraw() -> UInt64? {
        guard unsent > 0 else { return nil }
        tail &-= 1
        unsafe linux_store_release(submissionTail, tail)
        return unsafe submissions[Int(tail & submissionMask)].user_data
    }

    /// Entries that the kernel has not consumed.
    var unsent: UInt32 { @_noLocks get { unsafe tail &- linux_load_acquire(submissionHead) } }

    /// Completions wait in the kernel for a call that collects them (IORING_SQ_TASKRUN).
    var hasDeferredWork: Bool {
        @_noLocks get { unsafe linux_load_acquire(submissionFlags) & IORING_SQ_TASKRUN != 0 }
    }

    /// One system call that hands over all unsent entries and collects deferred completions, if there are any; a
    /// negative errno when it failed. Entries that it did not consume stay unsent.
    @_noLocks mutating func enter() -> Int32 {
        unsafe linux_store_release(submissionTail, tail)
        return linux_uring_enter(
            descriptor, unsent, enterFlags | (hasDeferredWork ? IORING_ENTER_GETEVENTS : 0))
    }

    /// As `enter`, and sleeps until there is a completion.
    @_noLocks mutating func enterAndWait(nanoseconds: UInt64) -> Int32 {
        unsafe linux_store_release(submissionTail, tail)
        return linux_uring_wait(descriptor, unsent, enterFlags, nanoseconds)
    }

    // MARK: Completion

    /// Completions that can be taken now.
    var ready: UInt32 { @_noLocks get { unsafe linux_load_acquire(completionTail) &- head } }

    /// The completion at `head`; the caller knows that `ready` is not 0.
    var first: io_uring_cqe { @_noLocks get { unsafe completions[Int(head & completionMask)] } }

    /// Moves past the completion at `head`.
    @_noLocks mutating func advance() { head &+= 1 }

    /// Gives the kernel back the slots before `head`.
    @_noLocks mutating func release() { unsafe linux_store_release(completionHead, head) }
}
