internal import CLinux
internal import Descriptors

/// The account of one libaio context: what was accepted and not yet reaped, and what of it the kernel has not taken.
///
/// Safe because the tables live from `init` to `deinit`, queue positions are below `capacity`, and the context's
/// completion ring is mapped until io_destroy(2).
@safe struct AioCore: ~Copyable {
    /// Operations that may be accepted and not yet reaped.
    let capacity: Int
    /// What `wait` also looks at.
    var watched = WatchedDescriptors()

    private let file: Int32
    private let context: UnsafeMutableRawPointer
    private let completed: OwnedDescriptor
    private let blocks: UnsafeMutablePointer<iocb>
    /// Pointers to `blocks`, in order, as io_submit(2) wants them.
    private let queue: UnsafeMutablePointer<UnsafeMutablePointer<iocb>>
    /// Accepted operations that io_submit(2) has yet to take: the first blocks, oldest first. The kernel copies a block
    /// when it takes it, so the next batch may use it again.
    private var unsent = 0
    /// Ends of operations that io_submit(2) refused one by one, for the next `reap`.
    private let refused: UnsafeMutablePointer<IOCompletion>
    private var refusals = 0
    private var inFlight = 0

    init(file: Int32, capacity: Int) throws(Fault) {
        // fs.aio-max-nr is 65,536 for the whole host by default.
        guard (1...32_768).contains(capacity) else { throw Fault("libaio of \(capacity) entries", errno: EINVAL) }
        let eventfd = try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)), "create an eventfd")
        unsafe context = try AioCore.makeContext(UInt32(capacity))
        completed = eventfd
        unsafe blocks = .allocate(capacity: capacity)
        unsafe queue = .allocate(capacity: capacity)
        unsafe refused = .allocate(capacity: capacity)
        self.file = file
        self.capacity = capacity
        for index in 0..<capacity {
            unsafe (blocks + index).initialize(to: iocb())
            unsafe (queue + index).initialize(to: blocks + index)
        }
    }

    deinit {
        // io_destroy waits for what is in flight, so nothing writes into anybody's buffer after this.
        unsafe linux_aio_destroy(context)
        unsafe blocks.deallocate()
        unsafe queue.deallocate()
        unsafe refused.deallocate()
    }

    private static func makeContext(_ capacity: UInt32) throws(Fault) -> UnsafeMutableRawPointer {
        var made: UnsafeMutableRawPointer?
        let result = unsafe linux_aio_setup(capacity, &made)
        guard result >= 0, let context = unsafe made else { throw Fault("io_setup", errno: max(1, 0 &- result)) }
        return unsafe context
    }

    // MARK: Operations

    @_noLocks mutating func submit(_ operations: UnsafePointer<IOOperation>, count: Int) -> Int {
        let accepted = max(0, min(count, capacity &- inFlight))
        for index in 0..<accepted { unsafe enqueue(operations[index]) }
        inFlight &+= accepted
        if accepted > 0 { flush() }
        return accepted
    }

    @_noLocks private mutating func enqueue(_ operation: IOOperation) {
        // unsent <= inFlight < capacity; a block beyond the unsent ones has been copied by the kernel or never used.
        let block = unsafe blocks + unsent
        let number = completed.number
        switch operation.kind {
        case .synchronize:
            // aio_fsync (fs/aio.c) wants buffer, length and offset to be zero.
            unsafe linux_iocb_prepare(block, Self.fdatasync, file, nil, 0, 0, number, operation.tag)
        case .read:
            unsafe linux_iocb_prepare(
                block, Self.read, file, operation.buffer, operation.length, operation.offset, number, operation.tag)
        case .write:
            unsafe linux_iocb_prepare(
                block, Self.write, file, operation.buffer, operation.length, operation.offset, number, operation.tag)
        }
        unsent &+= 1
    }

    private static var read: Int16 { @_noLocks get { Int16(truncatingIfNeeded: IO_CMD_PREAD.rawValue) } }
    private static var write: Int16 { @_noLocks get { Int16(truncatingIfNeeded: IO_CMD_PWRITE.rawValue) } }
    private static var fdatasync: Int16 { @_noLocks get { Int16(truncatingIfNeeded: IO_CMD_FDSYNC.rawValue) } }

    /// Hands unsent blocks over. io_submit(2) stops at the first that it refuses: EAGAIN and EINTR leave it for the next
    /// call, any other errno is that operation's end.
    @_noLocks private mutating func flush() {
        var sent = 0
        while sent < unsent {
            let result = unsafe linux_aio_submit(context, unsent &- sent, queue + sent)
            if result > 0 {
                sent &+= Int(result)
            } else if result == 0 || result == -EAGAIN || result == -EINTR || result == -ENOMEM {
                break
            } else {
                unsafe refused[refusals] = IOCompletion(tag: linux_iocb_tag(blocks + sent), result: result)
                refusals &+= 1
                sent &+= 1
            }
        }
        dropFirst(sent)
    }

    /// Moves what is left to the front.
    @_noLocks private mutating func dropFirst(_ sent: Int) {
        let left = unsent &- sent
        if sent > 0 {
            for index in 0..<left { unsafe blocks[index] = blocks[index &+ sent] }
        }
        unsent = left
    }

    // MARK: Completions

    @_noLocks mutating func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        if unsent > 0 { flush() }
        var count = unsafe takeRefused(completions, capacity)
        count = unsafe takeEvents(completions, from: count, capacity)
        inFlight &-= count
        return count
    }

    @_noLocks private mutating func takeRefused(
        _ completions: UnsafeMutablePointer<IOCompletion>, _ capacity: Int
    ) -> Int {
        let count = max(0, min(refusals, capacity))
        for index in 0..<count {
            refusals &-= 1
            unsafe completions[index] = unsafe refused[refusals]
        }
        return count
    }

    @_noLocks private mutating func takeEvents(
        _ completions: UnsafeMutablePointer<IOCompletion>, from start: Int, _ capacity: Int
    ) -> Int {
        var count = start
        var end = IOCompletion(tag: 0, result: 0)
        while count < capacity, unsafe linux_aio_take(context, &end.tag, &end.result) {
            unsafe completions[count] = end
            count &+= 1
        }
        return count
    }

    // MARK: Waiting

    mutating func wait(nanoseconds: UInt64) -> WakeReasons {
        if unsent > 0 { flush() }
        guard refusals == 0, !(unsafe linux_aio_ready(context)) else { return .completions }
        // Blocks that the kernel has no memory for are tried again in a moment.
        let limit = unsent > 0 ? min(nanoseconds, 1_000_000) : nanoseconds
        let reasons = watched.wait(alsoFor: completed.number, nanoseconds: limit)
        // Counts what was reaped long ago too: a stale wake-up costs a turn, a missing one a request.
        if reasons.contains(.completions) { _ = linux_eventfd_take(completed.number) }
        return reasons
    }
}
