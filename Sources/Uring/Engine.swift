public import Descriptors

/// What an operation does to its file. The engine knows no more than this of what it is for.
public enum OperationKind: UInt8, Sendable, BitwiseCopyable {
    /// Read `length` bytes at `offset` into `buffer`.
    case read
    /// Write `length` bytes from `buffer` at `offset`.
    case write
    /// fdatasync.
    case synchronize
}

/// One operation on the engine's file, as plain data: a queue fills a table of them and submits the table once.
@safe public struct IOOperation: BitwiseCopyable {
    /// Private, aligned memory that stays valid until the completion; unused by `synchronize`.
    public var buffer: UnsafeMutableRawPointer?
    /// Byte offset in the file.
    public var offset: UInt64
    /// Bytes.
    public var length: UInt32
    /// Returned unchanged in the completion. The caller's table index.
    public var tag: UInt32
    /// The registered slab that `buffer` lies in, or `unregistered`.
    public var slab: UInt16
    /// What to do.
    public var kind: OperationKind

    /// `slab` of a buffer that was never registered.
    @inlinable public static var unregistered: UInt16 { .max }

    /// All fields.
    @inlinable @_noLocks
    public init(
        _ kind: OperationKind, buffer: UnsafeMutableRawPointer?, slab: UInt16, offset: UInt64, length: UInt32,
        tag: UInt32
    ) {
        unsafe self.buffer = buffer
        self.offset = offset
        self.length = length
        self.tag = tag
        self.slab = slab
        self.kind = kind
    }
}

/// The end of one operation.
public struct IOCompletion: Sendable, BitwiseCopyable {
    /// The operation's tag.
    public var tag: UInt32
    /// Bytes done, or a negative errno.
    public var result: Int32

    /// Both fields.
    @inlinable @_noLocks public init(tag: UInt32, result: Int32) {
        self.tag = tag
        self.result = result
    }
}

/// Why `Engine.wait` came back; several can hold at once, none after a time-out.
public struct WakeReasons: OptionSet, Sendable {
    public let rawValue: UInt8
    @inlinable @_noLocks public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Completions can be reaped.
    @inlinable public static var completions: WakeReasons { @_noLocks get { WakeReasons(rawValue: 1) } }
    /// The first watched descriptor is readable (a queue's event channel).
    @inlinable public static var event: WakeReasons { @_noLocks get { WakeReasons(rawValue: 2) } }
    /// The second watched descriptor is readable (a queue's control eventfd).
    @inlinable public static var control: WakeReasons { @_noLocks get { WakeReasons(rawValue: 4) } }
    /// The engine has taken an event from the first watched descriptor.
    @inlinable public static var eventTaken: WakeReasons { @_noLocks get { WakeReasons(rawValue: 8) } }
}

/// How long `Engine.wait` sleeps if nothing happens.
public enum WaitLimit: Sendable {
    case forever
    case nanoseconds(UInt64)
    /// Until this long after the last wait that was over for this reason, or a little longer: a limit that costs nothing to
    /// set again for each of many short sleeps. Always the same for one engine.
    case tick(nanoseconds: UInt64)
}

/// Asynchronous I/O on one file, for one thread.
///
/// Every call is made once per chunk, from the thread that owns the queue. `submit` and `reap` never block; only `wait`
/// does. An engine never loses a completion: it accepts no more operations than its completion queue can hold.
public protocol Engine: AnyObject {
    /// Operations that may be in flight at once.
    var capacity: Int { get }

    /// Starts operations in order and returns how many it accepted; the rest were not started and are presented again.
    ///
    /// - Parameter lazily: it is enough if they start with the next `flush` or `wait`, which spares a call.
    func submit(_ operations: UnsafePointer<IOOperation>, count: Int, lazily: Bool) -> Int

    /// Starts what was submitted lazily.
    func flush()

    /// Moves up to `capacity` ends of operations into `completions` and returns how many.
    func reap(_ completions: UnsafeMutablePointer<IOCompletion>, capacity: Int) -> Int

    /// Makes a slab of buffer memory known to the kernel; false where that is not possible, and then operations on it
    /// carry `IOOperation.unregistered`.
    func register(slab: UInt16, _ memory: UnsafeMutableRawBufferPointer) -> Bool

    /// Forgets a registered slab; no operation on it is in flight.
    func unregister(slab: UInt16)

    /// Sets the two descriptors that `wait` also waits for (-1: none) and opens the engine for operations; once, before
    /// the first `submit`.
    ///
    /// - Parameter takingEvents: the engine reads the first descriptor itself, if it can. See `takesEvents`.
    func watch(event: Int32, control: Int32, takingEvents: Bool) throws(Fault)

    /// The engine reads the first watched descriptor itself: `wait` then says `eventTaken`, and writes what acknowledges
    /// an event. Where it cannot, it says `event`, and the caller reads and writes.
    var takesEvents: Bool { get }

    /// Sleeps until something is to be done or the time is over. The reasons may be spurious.
    ///
    /// - Parameter acknowledgement: a word that is written to the first descriptor before sleeping, where the engine
    ///   `takesEvents`.
    func wait(_ limit: WaitLimit, acknowledgement: UInt32?) -> WakeReasons
}

extension Engine {
    /// Starts operations at once.
    public func submit(_ operations: UnsafePointer<IOOperation>, count: Int) -> Int {
        unsafe submit(operations, count: count, lazily: false)
    }

    /// Watches without reading.
    public func watch(event: Int32, control: Int32) throws(Fault) {
        try watch(event: event, control: control, takingEvents: false)
    }

    /// Sleeps until something is to be done or the time is over (`nil`: no limit).
    public func wait(nanoseconds: UInt64?) -> WakeReasons {
        wait(nanoseconds.map { .nanoseconds($0) } ?? .forever, acknowledgement: nil)
    }
}

extension WaitLimit {
    /// As a number, a tick being one from now on; `.max` if there is none.
    var nanoseconds: UInt64 {
        switch self {
        case .forever: .max
        case .nanoseconds(let limit), .tick(let limit): limit
        }
    }
}
