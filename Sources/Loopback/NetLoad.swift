internal import CLinux
internal import Descriptors
internal import Glibc
internal import Synchronization
internal import XenWire

/// A load of frames through one interface.
public struct NetLoad: Sendable {
    public enum Direction: String, Sendable, CaseIterable {
        /// From the guest to the host's TAP device, and back.
        case toTap = "to-tap"
        case fromTap = "from-tap"
    }

    public enum Amount: Sendable {
        case nanoseconds(UInt64)
        case frames(UInt64)
    }

    public var direction: Direction
    /// Bytes of a frame, Ethernet header included.
    public var frameBytes: Int
    /// Frames are TCP segments that somebody cuts later, or nobody.
    public var isSegmented: Bool
    public var queues: Int
    /// Frames from the guest on their way at most, per queue.
    public var depth: Int
    public var amount: Amount
    /// Each frame is another one, and compared where it arrives.
    public var verifies: Bool
    public var seed: UInt64
    /// The daemon is killed so often, in nanoseconds; frames may get lost then, or come twice.
    public var killNanoseconds: UInt64?

    public init(
        direction: Direction, frameBytes: Int, isSegmented: Bool = false, queues: Int = 1, depth: Int = 256,
        amount: Amount, verifies: Bool = false, seed: UInt64 = 1, killNanoseconds: UInt64? = nil
    ) {
        self.direction = direction
        self.frameBytes = frameBytes
        self.isSegmented = isSegmented
        self.queues = queues
        self.depth = depth
        self.amount = amount
        self.verifies = verifies
        self.seed = seed
        self.killNanoseconds = killNanoseconds
    }

    /// Per queue: what is asked for, as far as a ring holds it.
    var framesOnTheirWay: Int {
        min(depth, Int(NetRing.slots) / ((frameBytes + 4095) / 4096 + (isSegmented ? 1 : 0)))
    }

    /// Frames that wait in a TAP device at most, far from its queue's length (TUN_READQ_SIZE, 500).
    static let burst = 400
    /// Of large ones.
    static let segmentedBurst = 64
    /// Frames that may be unseen while a packet socket compares them.
    static let window: UInt64 = 64
    /// Nanoseconds after which a frame that has not come is lost, where frames may be.
    static let patience: UInt64 = 200_000_000
}

/// What threads of a load tell each other.
final class NetLoadControl: Sendable {
    private let stopping = Atomic<Bool>(false)
    private let finished = Atomic<UInt64>(0)

    var isStopping: Bool { stopping.load(ordering: .relaxed) }
    func stop() { stopping.store(true, ordering: .relaxed) }
    /// Frames so far, for whoever watches.
    var frames: UInt64 { finished.load(ordering: .relaxed) }
    func add(_ frames: Int) { finished.wrappingAdd(UInt64(frames), ordering: .relaxed) }
}

/// What went wrong with a load: the backend, the host, or a frame.
enum NetLoadFault: Error {
    case backend(NetMisbehaviour)
    case host(Fault)
    /// A frame arrived that is not the next one: what was expected and what came.
    case outOfOrder(UInt64, UInt64)
    case differs(UInt64)
}

/// Compares frames with what they should be, one after the other.
@safe struct FrameCheck: ~Copyable {
    private let pattern: FramePattern
    private let expected: UnsafeMutableRawPointer
    /// Where a frame can be put for `check`.
    let memory: UnsafeMutableRawPointer
    /// Frames that were compared.
    private(set) var count: UInt64 = 0
    /// The number of the next frame.
    private(set) var next: UInt64 = 0
    /// Frames that did not come, and those that came again, where that may be.
    private(set) var lost: UInt64 = 0
    private(set) var doubled: UInt64 = 0
    private let mayLose: Bool

    static let capacity = 1 << 17

    /// - Parameter mayLose: frames need not come, and may come twice.
    init(_ pattern: FramePattern, mayLose: Bool) {
        self.pattern = pattern
        self.mayLose = mayLose
        unsafe expected = .allocate(byteCount: Self.capacity, alignment: 64)
        unsafe memory = .allocate(byteCount: Self.capacity, alignment: 64)
        unsafe pattern.write(0, to: expected)
    }

    deinit {
        unsafe expected.deallocate()
        unsafe memory.deallocate()
    }

    /// Judges a frame; what is not of the pattern is somebody else's and passes.
    mutating func check(_ frame: UnsafeRawPointer, _ bytes: Int) throws(NetLoadFault) {
        // The caller answers for `bytes` bytes at `frame`.
        guard let number = unsafe pattern.number(frame, count: bytes) else { return }
        guard number == next || mayLose else { throw .outOfOrder(next, number) }
        unsafe pattern.writePayload(number, to: expected)
        guard unsafe pattern.matches(frame, expected) else { throw .differs(number) }
        count += 1
        guard number >= next else { return doubled += 1 }
        skip(to: number)
        next = number + 1
    }

    /// Frames that are not waited for any longer.
    mutating func skip(to number: UInt64) {
        lost += number - next
        next = number
    }
}

/// Frames from the guest: one queue's, in a thread of its own.
struct TransmitLoad: ~Copyable {
    private var lane: TransmitLane
    private let pattern: FramePattern
    private let segmentation: Segmentation?
    private let limit: UInt64
    private var check: FrameCheck
    /// Where frames are compared, if they are.
    private let arrivals: PacketSocket?
    private let mayLose: Bool
    private var lastArrival: UInt64 = 0

    init(
        _ lane: consuming TransmitLane, _ pattern: FramePattern, limit: UInt64, verifiedAt arrivals: PacketSocket?,
        mayLose: Bool
    ) {
        self.mayLose = mayLose
        self.arrivals = arrivals
        self.pattern = pattern
        segmentation = pattern.isSegmented ? Segmentation(.tcpV4, size: FramePattern.segmentPayload) : nil
        for frame in 0..<lane.capacity { unsafe pattern.write(UInt64(frame), to: lane.memory(frame)) }
        self.lane = lane
        self.limit = limit
        check = FrameCheck(pattern, mayLose: mayLose)
    }

    var lost: UInt64 { check.lost }
    var doubled: UInt64 { check.doubled }
    var sent: UInt64 { lane.answered }
    var refused: UInt64 { lane.refused }
    var verified: UInt64 { check.count }
    var notifications: UInt64 { lane.notifications }

    /// Sends until the limit or the end of the load, and waits for what is on its way.
    mutating func run(_ control: NetLoadControl, _ abandoned: () -> Bool) throws(NetLoadFault) {
        while !abandoned() {
            let mayGoOn = !control.isStopping && lane.put < limit
            if mayGoOn { send() }
            let before = lane.answered
            let hasReaped = try reap()
            control.add(Int(truncatingIfNeeded: lane.answered &- before))
            let hasArrived = try takeArrivals()
            if !mayGoOn, lane.inFlight == 0, arrivals == nil || check.next == lane.put { return }
            if hasReaped || hasArrived { continue }
            if mayLose { giveUpWaiting() }
            // The packet socket has no event here; it is looked at again soon.
            if lane.inFlight == 0 { usleep(20) } else if lane.arm() { lane.port.wait() }
        }
    }

    private mutating func send() {
        var left = room
        while left > 0, lane.canSend {
            if arrivals != nil { unsafe pattern.writePayload(lane.put, to: lane.nextFrame) }
            lane.putFrame(pattern.bytes, [], segmentation)
            left &-= 1
        }
        lane.publish()
    }

    private var room: Int {
        let left = limit &- lane.put
        guard arrivals != nil else { return Int(clamping: left) }
        return Int(clamping: min(left, NetLoad.window &- min(lane.put &- check.next, NetLoad.window)))
    }

    /// All is answered, and what has not arrived does not any more.
    private mutating func giveUpWaiting() {
        guard arrivals != nil, lane.inFlight == 0, check.next < lane.put else { return }
        if linux_monotonic_nanoseconds() &- lastArrival > NetLoad.patience { check.skip(to: lane.put) }
    }

    private mutating func reap() throws(NetLoadFault) -> Bool {
        do throws(NetMisbehaviour) { return try lane.reap() } catch { throw .backend(error) }
    }

    private mutating func takeArrivals() throws(NetLoadFault) -> Bool {
        guard let arrivals else { return false }
        var hasCome = false
        while let bytes = try arrival(arrivals) {
            hasCome = true
            if mayLose { lastArrival = linux_monotonic_nanoseconds() }
            // The header is the kernel's, the frame follows it.
            unsafe try check.check(check.memory + PacketSocket.header, bytes - PacketSocket.header)
        }
        return hasCome
    }

    private func arrival(_ arrivals: PacketSocket) throws(NetLoadFault) -> Int? {
        do throws(Fault) {
            // So many bytes are there.
            return unsafe try arrivals.receive(check.memory, capacity: FrameCheck.capacity)
        } catch { throw .host(error) }
    }
}

/// Frames to the guest: bursts through a packet socket, of which only the guest's part is timed. The guest puts up its
/// buffers when a burst is in the TAP device, so that nothing is delivered before.
@safe struct ReceiveLoad: ~Copyable {
    private var lane: ReceiveLane
    private let pattern: FramePattern
    private let limit: UInt64
    private let sender: PacketSocket
    private let frames: UnsafeMutableRawPointer
    private let stride: Int
    private let burst: Int
    private var check: FrameCheck
    private let verifies: Bool
    private let mayLose: Bool
    private(set) var delivered: UInt64 = 0
    private(set) var sent: UInt64 = 0
    /// From the first buffer of each burst to its last frame; and this thread's processor time in it.
    private(set) var nanoseconds: UInt64 = 0
    private(set) var threadNanoseconds: UInt64 = 0

    init(
        _ lane: consuming ReceiveLane, _ pattern: FramePattern, _ sender: PacketSocket, limit: UInt64, verifies: Bool,
        mayLose: Bool
    ) {
        self.mayLose = mayLose
        self.sender = sender
        self.lane = lane
        self.pattern = pattern
        self.limit = limit
        burst = pattern.isSegmented ? NetLoad.segmentedBurst : NetLoad.burst
        stride = (PacketSocket.header + pattern.bytes + 63) & ~63
        unsafe frames = .allocate(byteCount: burst * stride, alignment: 64)
        check = FrameCheck(pattern, mayLose: mayLose)
        self.verifies = verifies
        for index in 0..<burst { unsafe write(UInt64(index), frames + index * stride) }
    }

    deinit { unsafe frames.deallocate() }

    var verified: UInt64 { check.count }
    var doubled: UInt64 { check.doubled }
    var lost: UInt64 { mayLose ? sent &+ doubled &- min(delivered, sent &+ doubled) : 0 }
    var notifications: UInt64 { lane.notifications }

    /// A frame behind its virtio header (struct virtio_net_hdr): what is to be cut says so, and where its sum goes.
    private func write(_ number: UInt64, _ memory: UnsafeMutableRawPointer) {
        // Ten bytes, then the frame.
        var header: [UInt8] = Array(repeating: 0, count: PacketSocket.header)
        if pattern.isSegmented {
            let size = FramePattern.segmentPayload
            header = [1, 1, 54, 0, UInt8(truncatingIfNeeded: size), UInt8(size >> 8), 34, 0, 16, 0]
        }
        unsafe memory.copyMemory(from: header, byteCount: PacketSocket.header)
        unsafe pattern.write(number, to: memory + PacketSocket.header)
    }

    /// Sends and takes bursts until the limit or the end of the load.
    mutating func run(_ control: NetLoadControl, _ abandoned: () -> Bool) throws(NetLoadFault) {
        while !control.isStopping, sent < limit, !abandoned() {
            let count = Int(min(UInt64(burst), limit - sent))
            try send(count)
            let (start, used) = (linux_monotonic_nanoseconds(), linux_thread_nanoseconds())
            try take(count, abandoned)
            nanoseconds += linux_monotonic_nanoseconds() - start
            threadNanoseconds += linux_thread_nanoseconds() - used
            control.add(count)
        }
    }

    private mutating func send(_ count: Int) throws(NetLoadFault) {
        if verifies {
            for index in 0..<count {
                // One of `burst` frames.
                unsafe pattern.writePayload(
                    sent + UInt64(index), to: frames + index * stride + PacketSocket.header)
            }
        }
        do throws(Fault) {
            unsafe try sender.send(
                frames, stride: stride, length: PacketSocket.header + pattern.bytes, count: count)
        } catch {
            // Without a process the TAP device takes nothing.
            guard mayLose else { throw .host(error) }
        }
        sent += UInt64(count)
    }

    private var slotsPerFrame: Int { (pattern.bytes + 4095) / 4096 + (pattern.isSegmented ? 1 : 0) }

    private mutating func take(_ count: Int, _ abandoned: () -> Bool) throws(NetLoadFault) {
        var (left, last) = (count, mayLose ? linux_monotonic_nanoseconds() : 0)
        while left > 0, !abandoned() {
            lane.fill(upTo: left * slotsPerFrame)
            let (frames, hasCollected) = try collect()
            left -= frames
            delivered += UInt64(frames)
            if mayLose {
                if hasCollected { last = linux_monotonic_nanoseconds() } else { usleep(50) }
                if linux_monotonic_nanoseconds() &- last > NetLoad.patience { return }
            } else if !hasCollected, lane.arm() {
                lane.port.wait()
            }
        }
    }

    /// Frames of the pattern among what has come.
    private mutating func collect() throws(NetLoadFault) -> (frames: Int, hasCollected: Bool) {
        guard try hasCollected() else { return (0, false) }
        var frames = 0
        while let frame = try next() {
            guard frame.bytes == pattern.bytes else { continue }
            frames += 1
            guard verifies else { continue }
            // As long as the pattern's.
            unsafe lane.copy(frame, to: check.memory)
            unsafe try check.check(check.memory, frame.bytes)
        }
        return (frames, true)
    }

    private mutating func hasCollected() throws(NetLoadFault) -> Bool {
        do throws(NetMisbehaviour) { return try lane.collect() } catch { throw .backend(error) }
    }

    private mutating func next() throws(NetLoadFault) -> ReceiveLane.Frame? {
        do throws(NetMisbehaviour) { return try lane.next() } catch { throw .backend(error) }
    }
}
