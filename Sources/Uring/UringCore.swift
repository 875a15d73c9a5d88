internal import CLinux
internal import Descriptors

/// The account of one ring: what was accepted and not yet reaped, which polls are armed, what woke us.
///
/// Accepted operations and the two polls together never exceed the completion queue, so it cannot overflow; and an
/// accepted operation is in exactly one place: an unsent entry, the kernel, or a completion.
struct UringCore: ~Copyable {
    /// Operations that may be accepted and not yet reaped.
    let capacity: Int
    private var ring: UringRing
    private var inFlight = 0
    private var watched: WatchedDescriptors
    /// Polls that the kernel holds; bits of `WakeReasons`, here and below (OptionSet's methods are generic, and not
    /// `@_noLocks`).
    private var armed: UInt8 = 0
    /// What polls have reported and `wait` has not yet returned.
    private var woken: UInt8 = 0
    /// Registered buffer slots; 0 where there are none.
    private var bufferSlots: UInt32
    /// The errno of a ring that takes no more entries (never the case in normal life); 0 while it works.
    private var failure: Int32 = 0

    init(capacity: Int, slabs: UInt32) throws(Fault) {
        // The two polls have completions of their own.
        let entries = try Self.entries(for: capacity)
        ring = try UringRing(entries: entries)
        bufferSlots = ring.reserveBuffers(slabs) ? slabs : 0
        watched = WatchedDescriptors()
        self.capacity = capacity
    }

    /// Registers the I/O file and both watched descriptors and opens the ring for entries.
    mutating func enable(file: Int32, watching watched: WatchedDescriptors) throws(Fault) {
        try ring.enable(files: [file, watched.event, watched.control])
        self.watched = watched
    }

    private static func entries(for capacity: Int) throws(Fault) -> UInt32 {
        // 32,768 is the kernel's limit for the submission queue (io_uring.c, IORING_MAX_ENTRIES).
        guard (1...32_766).contains(capacity) else { throw Fault("io_uring of \(capacity) entries", errno: EINVAL) }
        return UInt32(capacity + 2)
    }

    var overflows: UInt32 { ring.overflows }

    // MARK: Operations

    @_noLocks mutating func submit(_ operations: UnsafePointer<IOOperation>, count: Int) -> Int {
        let accepted = max(0, min(count, capacity &- inFlight))
        for index in 0..<accepted { unsafe prepare(operations[index]) }
        inFlight &+= accepted
        if accepted > 0 { flush() }
        return accepted
    }

    @_noLocks private mutating func prepare(_ operation: IOOperation) {
        let entry = unsafe ring.nextEntry()
        let tag = UInt64(operation.tag)
        let fixed = UInt32(operation.slab) < bufferSlots
        switch operation.kind {
        case .read:
            unsafe linux_sqe_transfer(
                entry, Self.opcode(fixed ? IORING_OP_READ_FIXED : IORING_OP_READ), FileSlot.volume.rawValue,
                operation.buffer, operation.length, operation.offset, fixed ? operation.slab : 0, tag)
        case .write:
            unsafe linux_sqe_transfer(
                entry, Self.opcode(fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE), FileSlot.volume.rawValue,
                operation.buffer, operation.length, operation.offset, fixed ? operation.slab : 0, tag)
        case .synchronize:
            unsafe linux_sqe_synchronize(entry, FileSlot.volume.rawValue, tag)
        }
    }

    @_noLocks private static func opcode(_ code: io_uring_op) -> UInt8 { UInt8(truncatingIfNeeded: code.rawValue) }

    /// Hands unsent entries over. Those that the kernel cannot take now (EAGAIN, EBUSY, EINTR) stay and go with the
    /// next call; any other errno means that none will ever go, and `reap` gives them back with it.
    @_noLocks private mutating func flush() {
        guard failure == 0 else { return }
        note(ring.enter())
    }

    @_noLocks private mutating func note(_ result: Int32) {
        switch -result {
        case EAGAIN, EBUSY, EINTR, ETIME, ENOMEM: break
        case let code where code > 0: failure = code
        default: break
        }
    }

    @_noLocks mutating func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        var count = unsafe take(completions, capacity)
        if count == 0 && inFlight > 0 && (ring.hasDeferredWork || ring.unsent > 0) {
            flush()
            count = unsafe take(completions, capacity)
        }
        if failure != 0 { count = unsafe giveBack(completions, from: count, capacity) }
        inFlight &-= count
        return count
    }

    @_noLocks private mutating func take(
        _ completions: UnsafeMutablePointer<IOCompletion>, _ capacity: Int
    ) -> Int {
        var count = 0
        var ready = ring.ready
        guard ready > 0 else { return 0 }
        while ready > 0 && count < capacity {
            let entry = ring.first
            ring.advance()
            ready &-= 1
            if let source = PollTag.source(of: entry.user_data) {
                noteWake(source)
            } else {
                unsafe completions[count] = IOCompletion(
                    tag: UInt32(truncatingIfNeeded: entry.user_data), result: entry.res)
                count &+= 1
            }
        }
        ring.release()
        return count
    }

    /// Ends of operations that a failed ring never took.
    @_noLocks private mutating func giveBack(
        _ completions: UnsafeMutablePointer<IOCompletion>, from start: Int, _ capacity: Int
    ) -> Int {
        var count = start
        while count < capacity, let data = ring.withdraw() {
            if let source = PollTag.source(of: data) {
                armed &= ~source
            } else {
                unsafe completions[count] = IOCompletion(tag: UInt32(truncatingIfNeeded: data), result: 0 &- failure)
                count &+= 1
            }
        }
        return count
    }

    // MARK: Waiting

    mutating func wait(nanoseconds: UInt64?) -> WakeReasons {
        let ready = takeReasons()
        guard ready.isEmpty else { return ready }
        guard failure == 0 else { return waitForRoom(nanoseconds) }
        arm(WakeReasons.event.rawValue, FileSlot.event, watched.event)
        arm(WakeReasons.control.rawValue, FileSlot.control, watched.control)
        note(ring.enterAndWait(nanoseconds: nanoseconds ?? .max))
        let reasons = takeReasons()
        return reasons.isEmpty && ring.unsent > 0 ? waitForRoom(nanoseconds) : reasons
    }

    /// A poll is armed once and again after it has reported: never more than one completion each, which multishot polls
    /// cannot promise, and nothing at all while the queue is busy and does not ask.
    private mutating func arm(_ source: UInt8, _ slot: FileSlot, _ descriptor: Int32) {
        guard descriptor >= 0 && armed & source == 0 else { return }
        unsafe linux_sqe_poll(ring.nextEntry(), slot.rawValue, PollTag.data(for: source))
        armed |= source
    }

    /// Takes the polls at the front of the completions; what is behind them is for `reap`.
    private mutating func takeReasons() -> WakeReasons {
        while ring.ready > 0, let source = PollTag.source(of: ring.first.user_data) {
            noteWake(source)
            ring.advance()
        }
        ring.release()
        defer { woken = 0 }
        let hasCompletions = ring.ready > 0 || (failure != 0 && inFlight > 0 && ring.unsent > 0)
        return WakeReasons(rawValue: woken | (hasCompletions ? WakeReasons.completions.rawValue : 0))
    }

    @_noLocks private mutating func noteWake(_ source: UInt8) {
        armed &= ~source
        woken |= source
    }

    /// The kernel could not take our entries (no memory): look after the watched descriptors for a moment, so that the
    /// caller comes back without spinning.
    private func waitForRoom(_ nanoseconds: UInt64?) -> WakeReasons {
        watched.wait(alsoFor: -1, nanoseconds: min(nanoseconds ?? .max, 1_000_000))
    }

    // MARK: Buffers

    mutating func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool {
        guard UInt32(slab) < bufferSlots else { return false }
        return unsafe ring.setBuffer(UInt32(slab), memory)
    }

    mutating func unregister(slab: UInt16) {
        guard UInt32(slab) < bufferSlots else { return }
        _ = unsafe ring.setBuffer(UInt32(slab), nil)
    }
}

/// The registered files of a ring.
private enum FileSlot: Int32 {
    case volume, event, control
}

/// The user data of a poll: above every operation's 32-bit tag.
private enum PollTag {
    @_noLocks static func data(for source: UInt8) -> UInt64 { 1 << 32 | UInt64(source) }

    @_noLocks static func source(of data: UInt64) -> UInt8? {
        data >> 32 == 0 ? nil : UInt8(truncatingIfNeeded: data)
    }
}
