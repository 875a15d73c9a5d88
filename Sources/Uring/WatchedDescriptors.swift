internal import CLinux

/// The two descriptors that an engine's `wait` also looks at; -1 for none.
struct WatchedDescriptors {
    /// A queue's event channel.
    var event: Int32 = -1
    /// A queue's control eventfd.
    var control: Int32 = -1

    /// poll(2) on both, and on a third descriptor that tells of completions.
    func wait(alsoFor completions: Int32, nanoseconds: UInt64) -> WakeReasons {
        // The bits of linux_poll_input are in argument order, as those of WakeReasons.
        let ready = linux_poll_input(completions, event, control, nanoseconds)
        return ready > 0 ? WakeReasons(rawValue: UInt8(truncatingIfNeeded: ready)) : []
    }
}
