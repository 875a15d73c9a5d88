/// When events that lead to nothing stop being listened to at once.
///
/// A frontend may send events without requests, at next to no cost for itself; each wakes the backend, which looks at
/// the ring in vain. A few in a row are normal: the request that an event announces may have been taken already. After
/// that the event channel stays masked for a while, which grows as long as nothing else comes: a storm costs a bounded
/// part of a processor, and only its sender waits. (Linux does the same for its own drivers: XSA-332, events_base.c.)
public struct EventThrottle: Sendable {
    /// Events in a row that may lead to nothing.
    public static let patience = 16
    /// Nanoseconds of the first pause and of the longest.
    public static let shortest: UInt64 = 1_000_000
    public static let longest: UInt64 = 32_000_000

    private var vainEvents = 0
    private var next = shortest
    /// Nanoseconds to leave the channel masked before the queue may sleep; 0: unmask it now.
    public private(set) var pause: UInt64 = 0

    /// Nothing has happened yet.
    public init() {}

    /// An event was taken from the channel. What it leads to is not known yet.
    public mutating func tookEvent() {
        vainEvents += 1
        guard vainEvents > Self.patience else { return }
        pause = next
        next = min(next * 2, Self.longest)
    }

    /// A turn did something.
    public mutating func foundWork() {
        self = EventThrottle()
    }

    /// The pause is over, or was cut short by something else that is to be done.
    public mutating func rested() { pause = 0 }
}
