internal import CLinux
internal import Descriptors

/// How a ring is made: the flags a kernel understands, and what the ring may do for the rest of its life.
enum UringSetup {
    /// Everything an engine submits. IORING_REGISTER_RESTRICTIONS refuses the rest with EACCES.
    static let engineSubmissions = codes([
        IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,
        IORING_OP_POLL_ADD, IORING_OP_TIMEOUT,
    ])

    /// What is submitted for frames.
    static let frameSubmissions = codes([IORING_OP_READ, IORING_OP_WRITE, IORING_OP_ASYNC_CANCEL])

    private static func codes(_ operations: [io_uring_op]) -> [UInt8] {
        operations.map { UInt8(truncatingIfNeeded: $0.rawValue) }
    }

    /// What an enabled ring can still change: buffer slots and the ring descriptor's own registration.
    static let allowedRegistrations = [
        IORING_REGISTER_BUFFERS_UPDATE, IORING_REGISTER_RING_FDS, IORING_UNREGISTER_RING_FDS,
    ].map { UInt8(truncatingIfNeeded: $0) }

    private static let always = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE

    /// Best first; each is refused with EINVAL by kernels older than the one named.
    static let flagChoices: [UInt32] = [
        // 6.1: completions are run when we ask, never in an interrupt of our thread.
        always | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
            | IORING_SETUP_TASKRUN_FLAG,
        // 5.19
        always | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        // 5.11 (for IORING_FEAT_EXT_ARG, see `make`)
        always,
    ]

    /// Features without which an engine does not work: timed waits in one call (5.11), no dropped completions and
    /// submission entries that may be reused at once (5.5).
    static let requiredFeatures = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE

    /// A disabled ring with the best flags that this kernel takes.
    static func make(
        entries: UInt32, flagChoices: [UInt32] = flagChoices
    ) throws(Fault) -> UnsafeMutablePointer<io_uring> {
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        // liburing fills the struct; it is plain data, so zero is an initial value.
        unsafe ring.initialize(to: io_uring())
        do throws(Fault) {
            try unsafe initialize(ring, entries: entries, flagChoices: flagChoices)
        } catch {
            unsafe ring.deallocate()
            throw error
        }
        return unsafe ring
    }

    private static func initialize(
        _ ring: UnsafeMutablePointer<io_uring>, entries: UInt32, flagChoices: [UInt32]
    ) throws(Fault) {
        var result: Int32 = -EINVAL
        for flags in flagChoices where result == -EINVAL {
            var parameters = io_uring_params()
            parameters.flags = flags
            parameters.cq_entries = entries
            result = unsafe io_uring_queue_init_params(entries, ring, &parameters)
        }
        guard result >= 0 else { throw Fault("io_uring_setup", errno: -result) }
        guard unsafe ring.pointee.features & requiredFeatures == requiredFeatures else {
            unsafe io_uring_queue_exit(ring)
            throw Fault("io_uring_setup: the kernel is older than 5.11", errno: ENOSYS)
        }
        unsafe fillIndexArray(ring)
    }

    /// Entry i always goes through slot i of the indirection array (io_uring(7)); so it is written once.
    private static func fillIndexArray(_ ring: UnsafeMutablePointer<io_uring>) {
        guard let array = unsafe ring.pointee.sq.array else { return }
        for index in 0..<(unsafe ring.pointee.sq.ring_entries) { unsafe array[Int(index)] = index }
    }

    /// Files, restrictions, then the switch that puts the restrictions in force; all or nothing is enabled.
    static func enable(
        _ ring: UnsafeMutablePointer<io_uring>, files: [Int32], submissions: [UInt8], onlyRegistered: Bool
    ) throws(Fault) {
        try check("register files", unsafe io_uring_register_files(ring, files, UInt32(files.count)))
        try check(
            "restrict io_uring",
            unsafe linux_uring_restrict(
                ring, submissions, UInt32(submissions.count), allowedRegistrations,
                UInt32(allowedRegistrations.count), onlyRegistered ? linux_sqe_fixed_file : 0,
                linux_sqe_fixed_file | linux_sqe_silent))
        try check("enable io_uring", unsafe linux_uring_enable(ring))
    }

    private static func check(_ operation: String, _ result: Int32) throws(Fault) {
        guard result >= 0 else { throw Fault(operation, errno: -result) }
    }

    /// Unmaps the rings, then closes the descriptor (liburing's order), then frees the struct.
    static func destroy(_ ring: UnsafeMutablePointer<io_uring>) {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
    }

    /// Shared words and entries of the submission ring.
    @unsafe struct SubmissionPointers {
        let entries: UnsafeMutablePointer<io_uring_sqe>
        let head, tail, flags: UnsafeMutablePointer<UInt32>
    }

    /// Shared words and entries of the completion ring.
    @unsafe struct CompletionPointers {
        let entries: UnsafeMutablePointer<io_uring_cqe>
        let head, tail: UnsafeMutablePointer<UInt32>
    }

    /// The shared words of a ring; `nil` if liburing left one out, which it does not.
    static func pointers(
        of ring: UnsafeMutablePointer<io_uring>
    ) -> (SubmissionPointers, CompletionPointers)? {
        let sq = unsafe ring.pointee.sq
        let cq = unsafe ring.pointee.cq
        guard let sqes = unsafe sq.sqes, let sqHead = unsafe sq.khead, let sqTail = unsafe sq.ktail,
            let flags = unsafe sq.kflags, let cqes = unsafe cq.cqes, let cqHead = unsafe cq.khead,
            let cqTail = unsafe cq.ktail
        else { return nil }
        return unsafe (
            SubmissionPointers(entries: sqes, head: sqHead, tail: sqTail, flags: flags),
            CompletionPointers(entries: cqes, head: cqHead, tail: cqTail)
        )
    }
}
