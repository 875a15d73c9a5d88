internal import CLinux
internal import Descriptors
internal import Glibc
public import SharedRing
internal import Xenbus
public import Xenstore

/// How the owner of a thread lets time pass until a xenstore connection may have news.
///
/// Between processes that is poll(2); in a simulation it is a step of everything else.
public struct XenstorePatience {
    let clock: any Clock
    let pause: (XenstoreClient, _ milliseconds: Int32) throws(XenstoreError) -> Void

    /// - Parameter pause: returns when the connection may have something to read, at the latest when the time is over.
    public init(
        clock: any Clock, pause: @escaping (XenstoreClient, _ milliseconds: Int32) throws(XenstoreError) -> Void
    ) {
        self.clock = clock
        self.pause = pause
    }

    /// Waits with poll(2) in real time. `meanwhile` is called a few times a second.
    public static func polling(meanwhile: @escaping () -> Void = {}) -> XenstorePatience {
        XenstorePatience(clock: SystemClock()) { client, milliseconds throws(XenstoreError) in
            let ready = linux_poll_one(client.descriptor, Int16(POLLIN), min(milliseconds, 20))
            if ready > 0 { try client.processReadable() }
            meanwhile()
        }
    }

    /// Looks at `condition` now and after every change that the client's watches see, until it is not nil or the time
    /// is over; nil then.
    func wait<Value>(
        _ client: XenstoreClient, milliseconds: Int, for condition: () throws(XenstoreError) -> Value?
    ) throws(XenstoreError) -> Value? {
        let end = clock.now() &+ UInt64(milliseconds) &* 1_000_000
        while true {
            _ = client.pendingEvents()
            if let value = try condition() { return value }
            while !client.hasPendingEvents {
                let now = clock.now()
                guard now < end else { return nil }
                try pause(client, Int32(truncatingIfNeeded: (end - now) / 1_000_000 + 1))
            }
        }
    }
}

extension XenstoreAccess {
    /// The state that a node holds; `unknown` if it is missing.
    func state(_ path: XenstorePath) throws(XenstoreError) -> XenbusState {
        XenbusState(text: try read(path)?.text ?? "")
    }
}
