internal import CLinux
public import Descriptors
internal import Glibc
internal import Synchronization
public import Uring

/// A range to give back.
public struct DiscardJob: Sendable {
    /// Bytes from the volume's start; on the volume's granularity, as is `length`.
    public var offset: UInt64
    /// Bytes.
    public var length: UInt64
    /// Returned unchanged. The queue's table index.
    public var tag: UInt32
    /// Where its end is reported.
    public var reply: DiscardMailbox

    /// All of it.
    public init(offset: UInt64, length: UInt64, tag: UInt32, reply: DiscardMailbox) {
        self.offset = offset
        self.length = length
        self.tag = tag
        self.reply = reply
    }
}

/// Who executes discards off the queues' threads: a `DiscardLane`, or a model of one.
public protocol DiscardExecutor: AnyObject, Sendable {
    /// Queues a job; false if there is no room. Then its mailbox rings when there is, and it is presented again.
    func submit(_ job: DiscardJob) -> Bool
}

/// Queues whose jobs an executor had no room for. None of theirs may be in it: only others' would end, and ring others.
public struct RefusedDiscards: Sendable {
    private var mailboxes: [DiscardMailbox] = []

    public init() {}

    /// There was no room for one of this queue's.
    public mutating func note(_ mailbox: DiscardMailbox) {
        if !mailboxes.contains(where: { $0 === mailbox }) { mailboxes.append(mailbox) }
    }

    /// There is room.
    public mutating func ring() {
        for mailbox in mailboxes { mailbox.ring() }
        mailboxes.removeAll(keepingCapacity: true)
    }
}

/// The ended discards of one queue, from the lane's thread to the queue's.
public final class DiscardMailbox: Sendable {
    private let ended: Mutex<[IOCompletion]>
    /// Of its own, for it may ring when the queue has gone.
    private let wakeup: OwnedDescriptor
    private let cancelled = Atomic<Bool>(false)

    /// Rings the eventfd `wakeup`, or nothing if that is negative. Room for `capacity` jobs is made now; the queue never has more in the lane.
    public init(wakeup: Int32, capacity: Int) throws(Fault) {
        self.wakeup =
            wakeup < 0
            ? OwnedDescriptor(owning: wakeup) : try OwnedDescriptor(linux_duplicate(wakeup), "duplicate an eventfd")
        var table: [IOCompletion] = []
        table.reserveCapacity(capacity)
        ended = Mutex(table)
    }

    /// Moves the oldest ends into `completions`, up to `capacity`, and returns how many: 0 or a negative errno each.
    public func take(into completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int {
        ended.withLock { ended in
            let count = max(0, min(capacity, ended.count))
            for index in 0..<count { unsafe completions[index] = ended[index] }
            ended.removeFirst(count)
            return count
        }
    }

    /// Ends this queue's jobs with ECANCELED at the next chunk: nobody is left who wants them.
    public func cancel() { cancelled.store(true, ordering: .relaxed) }

    fileprivate var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

    /// Reports the end of a job and rings the queue; called by the executor.
    public func deliver(_ end: IOCompletion) {
        ended.withLock { $0.append(end) }
        ring()
    }

    fileprivate func ring() { linux_eventfd_signal(wakeup.number) }
}

/// Executes one device's discards on a thread of its own, in order: BLKDISCARD and hole punching block, for seconds if
/// the range is large, and io_uring has neither on all kernels.
///
/// A range is worked off in chunks, so that stopping and cancelling take effect soon.
public final class DiscardLane: DiscardExecutor {
    private let shared: Shared
    private let thread: JoinableThread

    /// Starts the thread. The volume is kept open.
    ///
    /// - Parameter capacity: jobs that may wait, of all queues together.
    public init(_ volume: Volume, name: String, capacity: Int = 256) throws(Fault) {
        let shared = Shared(
            capacity: capacity, wakeup: try OwnedDescriptor(linux_eventfd(UInt32(EFD_CLOEXEC)), "create an eventfd"))
        let worker = DiscardWorker(volume)
        thread = try JoinableThread(name: name) { shared.serve(worker) }
        self.shared = shared
    }

    /// Queues a job; false if the lane is full or stopped.
    public func submit(_ job: DiscardJob) -> Bool { shared.add(job) }

    /// Ends the chunk that is under way, answers what is left with ECANCELED and ends the thread. Once only.
    public func stop() {
        shared.stop()
        thread.join()
    }

    /// What the thread and the submitters share.
    private final class Shared: Sendable {
        private let state: Mutex<State>
        private let stopping = Atomic<Bool>(false)
        private let capacity: Int
        private let wakeup: OwnedDescriptor

        private struct State {
            var jobs: [DiscardJob] = []
            var refused = RefusedDiscards()
            var isOpen = true
        }

        init(capacity: Int, wakeup: consuming OwnedDescriptor) {
            self.capacity = capacity
            self.wakeup = wakeup
            state = Mutex(State())
        }

        func add(_ job: DiscardJob) -> Bool {
            let accepted = state.withLock { state in
                guard state.isOpen && state.jobs.count < capacity else {
                    state.refused.note(job.reply)
                    return false
                }
                state.jobs.append(job)
                return true
            }
            if accepted { linux_eventfd_signal(wakeup.number) }
            return accepted
        }

        func stop() {
            state.withLock { $0.isOpen = false }
            stopping.store(true, ordering: .relaxed)
            linux_eventfd_signal(wakeup.number)
        }

        func serve(_ worker: DiscardWorker) {
            while true {
                while let job = next() {
                    let code = worker.run(job) { stopping.load(ordering: .relaxed) || job.reply.isCancelled }
                    job.reply.deliver(IOCompletion(tag: job.tag, result: code))
                }
                if stopping.load(ordering: .relaxed) { return }
                _ = linux_eventfd_take(wakeup.number)  // blocks: the descriptor is not O_NONBLOCK
            }
        }

        private func next() -> DiscardJob? {
            state.withLock { state in
                guard !state.jobs.isEmpty else { return nil }
                defer { state.refused.ring() }
                return state.jobs.removeFirst()
            }
        }
    }
}

/// How a volume gives space back.
struct DiscardWorker: Sendable {
    let volume: Volume
    let chunk: UInt64

    /// A chunk takes a device well below a second.
    private static let longest: UInt64 = 64 << 20

    init(_ volume: Volume) {
        self.volume = volume
        chunk = Self.chunk(volume.geometry.discard)
    }

    /// At most the volume's own limit, in whole units, so that chunks begin where units do.
    static func chunk(_ geometry: DiscardGeometry?) -> UInt64 {
        guard let geometry, geometry.granularity > 0 else { return longest }
        let limit = min(longest, geometry.maximum)
        return max(geometry.granularity, limit / geometry.granularity * geometry.granularity)
    }

    /// 0 or a negative errno.
    func run(_ job: DiscardJob, isAbandoned: () -> Bool) -> Int32 {
        var offset = job.offset
        var left = job.length
        while left > 0 {
            guard !isAbandoned() else { return -ECANCELED }
            let length = min(left, chunk)
            let result = discard(offset, length)
            guard result == 0 else { return result }
            offset &+= length
            left &-= length
        }
        return 0
    }

    private func discard(_ offset: UInt64, _ length: UInt64) -> Int32 {
        var result: Int32
        repeat {
            switch volume.kind {
            case .blockDevice: result = linux_block_discard(volume.descriptor, offset, length)
            case .file: result = linux_punch_hole(volume.descriptor, offset, length)
            case .null: result = 0
            }
        } while result == -EINTR
        return result
    }
}
