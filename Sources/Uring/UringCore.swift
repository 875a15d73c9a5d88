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
    /// The descriptor of the file that operations are for; not registered (see `enable`).
    private var file: Int32 = -1
    private var watched: WatchedDescriptors
    /// Watches that the kernel holds: bits of `Watch`.
    private var armed: UInt8 = 0
    /// What watches have reported and `wait` has not yet returned: bits of `WakeReasons`, here and below (OptionSet's
    /// methods are generic, and not `@_noLocks`).
    private var woken: UInt8 = 0
    private let memory: WatchMemory
    /// The first watched descriptor is read, not polled.
    private(set) var takesEvents = false
    /// Entries that are not sent are meant to wait.
    private var isLazy = false
    /// Registered buffer slots; 0 where there are none.
    private var bufferSlots: UInt32
    /// The errno of a ring that takes no more entries (never the case in normal life); 0 while it works.
    private var failure: Int32 = 0

    init(capacity: Int, slabs: UInt32) throws(Fault) {
        // Watches have completions of their own.
        let entries = try Self.entries(for: capacity)
        ring = try UringRing(entries: entries)
        bufferSlots = ring.reserveBuffers(slabs) ? slabs : 0
        watched = WatchedDescriptors()
        memory = WatchMemory()
        self.capacity = capacity
    }

    /// Registers both watched descriptors and opens the ring for entries. The I/O file is not registered: when this process
    /// is killed, the kernel would let go of it only with the ring, tens of milliseconds after the last operation, and the
    /// next process waits until then (`VolumeFence`).
    mutating func enable(file: Int32, watching watched: WatchedDescriptors, takingEvents: Bool) throws(Fault) {
        try ring.enable(files: [watched.event, watched.control], onlyRegistered: false)
        self.file = file
        self.watched = watched
        // A descriptor that blocks would be read on one of the kernel's worker threads.
        takesEvents = takingEvents && ring.canSkipCompletions && linux_is_nonblocking(watched.event)
    }

    private static func entries(for capacity: Int) throws(Fault) -> UInt32 {
        // 32,768 is the kernel's limit for the submission queue (io_uring.c, IORING_MAX_ENTRIES).
        let watches = Watch.count
        guard (1...(32_768 - watches)).contains(capacity) else {
            throw Fault("io_uring of \(capacity) entries", errno: EINVAL)
        }
        return UInt32(capacity + watches)
    }

    var overflows: UInt32 { ring.overflows }

    // MARK: Operations

    @_noLocks mutating func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int {
        let accepted = max(0, min(count, capacity &- inFlight))
        for index in 0..<accepted { unsafe prepare(operations[index]) }
        inFlight &+= accepted
        isLazy = lazily
        if accepted > 0 && !lazily { flush() }
        return accepted
    }

    @_noLocks mutating func flushLazy() {
        guard isLazy else { return }
        flush()
    }

    @_noLocks private mutating func prepare(_ operation: IOOperation) {
        let entry = unsafe ring.nextEntry()
        let tag = UInt64(operation.tag)
        let fixed = UInt32(operation.slab) < bufferSlots
        switch operation.kind {
        case .read:
            unsafe linux_sqe_transfer(
                entry, Self.opcode(fixed ? IORING_OP_READ_FIXED : IORING_OP_READ), 0, file, operation.buffer,
                operation.length, operation.offset, fixed ? operation.slab : 0, tag)
        case .write:
            unsafe linux_sqe_transfer(
                entry, Self.opcode(fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE), 0, file, operation.buffer,
                operation.length, operation.offset, fixed ? operation.slab : 0, tag)
        case .synchronize:
            unsafe linux_sqe_synchronize(entry, file, tag)
        }
    }

    @_noLocks private static func opcode(_ code: io_uring_op) -> UInt8 { UInt8(truncatingIfNeeded: code.rawValue) }

    /// Hands unsent entries over. Those that the kernel cannot take now (EAGAIN, EBUSY, EINTR) stay and go with the
    /// next call; any other errno means that none will ever go, and `reap` gives them back with it.
    @_noLocks private mutating func flush() {
        guard failure == 0 else { return }
        isLazy = false
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
        if count == 0 && inFlight > 0 && (ring.hasDeferredWork || (ring.unsent > 0 && !isLazy)) {
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
            if let watch = Watch.of(entry.user_data) {
                ended(watch, entry.res)
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
            if let watch = Watch.of(data) {
                armed &= ~watch
            } else {
                unsafe completions[count] = IOCompletion(tag: UInt32(truncatingIfNeeded: data), result: 0 &- failure)
                count &+= 1
            }
        }
        return count
    }

    // MARK: Waiting

    mutating func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons {
        if let acknowledgement, takesEvents { acknowledge(acknowledgement) }
        let ready = takeReasons()
        guard ready.isEmpty else { return ready }
        guard failure == 0 else { return waitForRoom(limit.nanoseconds) }
        watchEvent()
        watchControl()
        isLazy = false
        note(ring.enterAndWait(nanoseconds: begin(limit)))
        let reasons = takeReasons()
        return reasons.isEmpty && ring.unsent > 0 ? waitForRoom(limit.nanoseconds) : reasons
    }

    /// Goes out with the next call; a completion comes only if it fails, which for an event channel that is ours it never
    /// does.
    private mutating func acknowledge(_ word: UInt32) {
        guard armed & Watch.acknowledgement == 0 else { return }
        unsafe memory.word.pointee = word
        unsafe linux_sqe_acknowledge(
            ring.nextEntry(), FileSlot.event.rawValue, memory.word, Watch.data(for: Watch.acknowledgement))
    }

    /// Watches are armed once and again after they have reported: never more than one completion each, which multishot
    /// polls cannot promise, and nothing at all while the queue is busy and does not ask.
    private mutating func watchEvent() {
        guard watched.event >= 0, armed & Watch.event == 0 else { return }
        armed |= Watch.event
        let data = Watch.data(for: Watch.event)
        if takesEvents {
            unsafe linux_sqe_take_event(
                ring.nextEntry(), FileSlot.event.rawValue, memory.events, WatchMemory.eventBytes, data)
        } else {
            unsafe linux_sqe_poll(ring.nextEntry(), FileSlot.event.rawValue, data)
        }
    }

    private mutating func watchControl() {
        guard watched.control >= 0, armed & Watch.control == 0 else { return }
        armed |= Watch.control
        unsafe linux_sqe_poll(ring.nextEntry(), FileSlot.control.rawValue, Watch.data(for: Watch.control))
    }

    /// The limit for the call itself. A tick is a watch like the others.
    private mutating func begin(_ limit: WaitLimit) -> UInt64 {
        guard case .tick(let nanoseconds) = limit else { return limit.nanoseconds }
        guard armed & Watch.tick == 0 else { return .max }
        armed |= Watch.tick
        unsafe memory.tick.pointee = __kernel_timespec(
            tv_sec: Int64(clamping: nanoseconds / 1_000_000_000), tv_nsec: Int64(nanoseconds % 1_000_000_000))
        unsafe linux_sqe_timeout(ring.nextEntry(), memory.tick, Watch.data(for: Watch.tick))
        return .max
    }

    /// Takes the watches at the front of the completions; what is behind them is for `reap`.
    private mutating func takeReasons() -> WakeReasons {
        while ring.ready > 0, let watch = Watch.of(ring.first.user_data) {
            ended(watch, ring.first.res)
            ring.advance()
        }
        ring.release()
        defer { woken = 0 }
        let hasCompletions = ring.ready > 0 || (failure != 0 && inFlight > 0 && ring.unsent > 0)
        return WakeReasons(rawValue: woken | (hasCompletions ? WakeReasons.completions.rawValue : 0))
    }

    @_noLocks private mutating func ended(_ watch: UInt8, _ result: Int32) {
        armed &= ~watch
        if watch == Watch.event {
            if takesEvents { eventRead(result) } else { woken |= WakeReasons.event.rawValue }
        } else if watch == Watch.control {
            woken |= WakeReasons.control.rawValue
        }
        // A tick is no reason; a failed acknowledgement has no remedy.
    }

    /// What the caller can mend (an overflow, EFBIG) is left to it; a descriptor that cannot be read this way is polled.
    @_noLocks private mutating func eventRead(_ result: Int32) {
        if result > 0 {
            woken |= WakeReasons.eventTaken.rawValue
        } else if result != 0 &- ECANCELED && result != 0 &- EINTR && result != 0 &- EAGAIN {
            takesEvents = false
            woken |= WakeReasons.event.rawValue
        }
    }

    /// The kernel could not take our entries (no memory): look after the watched descriptors for a moment, so that the
    /// caller comes back without spinning.
    private func waitForRoom(_ nanoseconds: UInt64) -> WakeReasons {
        watched.wait(alsoFor: -1, nanoseconds: min(nanoseconds, 1_000_000))
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
    case event, control
}

/// What a ring does besides operations, as bits; in the user data they lie above every operation's 32-bit tag.
private enum Watch {
    static var event: UInt8 { @_noLocks get { 1 } }
    static var control: UInt8 { @_noLocks get { 2 } }
    static var tick: UInt8 { @_noLocks get { 4 } }
    static var acknowledgement: UInt8 { @_noLocks get { 8 } }
    static var count: Int { 4 }

    @_noLocks static func data(for watch: UInt8) -> UInt64 { 1 << 32 | UInt64(watch) }

    @_noLocks static func of(_ data: UInt64) -> UInt8? {
        data >> 32 == 0 ? nil : UInt8(truncatingIfNeeded: data)
    }
}

/// Memory that watches read and write; the kernel may hold its addresses until the ring is gone.
@safe private struct WatchMemory: ~Copyable {
    /// Ports of /dev/xen/evtchn, of which a queue has one, or an eventfd's count. What is read tells nothing.
    static var eventBytes: UInt32 { 64 }
    let events: UnsafeMutableRawPointer
    let word: UnsafeMutablePointer<UInt32>
    let tick: UnsafeMutablePointer<__kernel_timespec>

    init() {
        unsafe events = .allocate(byteCount: Int(Self.eventBytes), alignment: 8)
        unsafe word = .allocate(capacity: 1)
        unsafe word.initialize(to: 0)
        unsafe tick = .allocate(capacity: 1)
        unsafe tick.initialize(to: __kernel_timespec())
    }

    deinit {
        unsafe events.deallocate()
        unsafe word.deallocate()
        unsafe tick.deallocate()
    }
}
