/// How long frames wait for a guest that puts up no receive buffers, and when it counts as not reading at all.
///
/// A backlog that is delivered late is worse than none: whoever sent it has long sent it again. And a host that sends
/// frames to a port that leads nowhere should know it, so a stalled interface loses its carrier (xen-netback does both:
/// rx_drain_timeout_msecs, rx_stall_timeout_msecs, with the same times).
struct ReceivePatience: Sendable {
    /// Nanoseconds after which what waits is thrown away, again and again; and where the guest does not say when it has put up
    /// buffers.
    static let expiry: UInt64 = 10_000_000_000
    static let silentExpiry: UInt64 = 30_000_000
    /// Nanoseconds of not reading after which the interface is stalled.
    static let stall: UInt64 = 60_000_000_000

    private let expiry: UInt64
    private let noticesStalls: Bool

    /// When the guest began to lack buffers while frames were there.
    private var lackingSince: UInt64?
    private var expiresAt: UInt64 = .max
    private(set) var isStalled = false

    /// - Parameter notifies: the guest sends an event with its buffers. Who does not is never said to have stalled.
    init(notifies: Bool = true) {
        expiry = notifies ? Self.expiry : Self.silentExpiry
        noticesStalls = notifies
    }

    /// When `mustDiscard` is to be asked again; `UInt64.max`: never.
    var deadline: UInt64 { expiresAt }

    /// Notes whether buffers are lacking; true if what waits for them has waited too long.
    mutating func mustDiscard(lacksBuffers: Bool, now: UInt64) -> Bool {
        guard lacksBuffers else {
            self = ReceivePatience(notifies: noticesStalls)
            return false
        }
        if lackingSince == nil {
            lackingSince = now
            expiresAt = now &+ expiry
        }
        return now >= expiresAt
    }

    /// Notes how many frames were thrown away: without any nobody has been waiting.
    mutating func discarded(_ frames: Int, now: UInt64) {
        expiresAt = now &+ expiry
        if frames == 0 { lackingSince = now }
        if noticesStalls, let since = lackingSince, now &- since >= Self.stall { isStalled = true }
    }
}
