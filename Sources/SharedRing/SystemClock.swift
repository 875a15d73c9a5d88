internal import CLinux

/// CLOCK_MONOTONIC.
public final class SystemClock: Clock {
    /// The one clock of a real process.
    public init() {}
    /// Nanoseconds of CLOCK_MONOTONIC.
    public func now() -> UInt64 { linux_monotonic_nanoseconds() }
}
