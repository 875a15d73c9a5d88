internal import Synchronization

/// How many lines a log may get: some at once, then so many per second. What a guest does decides how often there is
/// something to say, and it must not decide how fast a disk fills.
public final class LineBudget: Sendable {
    /// What becomes of a line.
    public enum Decision: Equatable, Sendable {
        /// It is written, after so many that were not.
        case write(suppressed: UInt64)
        case suppress
    }

    private struct State {
        var available: UInt64
        var refilled: UInt64
        var suppressed: UInt64 = 0
    }
    private let state: Mutex<State>
    private let burst: UInt64
    /// Nanoseconds per line.
    private let interval: UInt64

    /// - Parameters:
    ///   - burst: lines at once.
    ///   - perSecond: lines per second in the long run; at least 1.
    ///   - now: nanoseconds of a monotonic clock.
    public init(burst: UInt64 = 200, perSecond: UInt64 = 10, now: UInt64) {
        self.burst = max(burst, 1)
        interval = 1_000_000_000 / min(max(perSecond, 1), 1_000_000_000)
        state = Mutex(State(available: max(burst, 1), refilled: now))
    }

    /// Decides about one line.
    public func decide(now: UInt64) -> Decision {
        state.withLock { state in
            let earned = now > state.refilled ? (now - state.refilled) / interval : 0
            state.available = min(burst, state.available &+ earned)
            state.refilled = state.refilled &+ earned &* interval
            guard state.available > 0 else {
                state.suppressed &+= 1
                return .suppress
            }
            state.available -= 1
            defer { state.suppressed = 0 }
            return .write(suppressed: state.suppressed)
        }
    }
}
