internal import CLinux
internal import Glibc

/// The service manager that started us, if one did: sd_notify(3) without its library.
public struct ServiceManager: Sendable {
    private let socket: String?

    /// This process's number.
    public static var process: UInt64 { UInt64(getpid()) }

    /// - Parameter socket: what the environment variable NOTIFY_SOCKET says.
    public init(socket: String?) {
        self.socket = socket
    }

    /// `READY=1`, `STOPPING=1`, `STATUS=...`. Nobody to tell is no error, and one who does not listen is none of ours.
    public func tell(_ message: String) {
        guard let socket else { return }
        // Both strings live for the call.
        _ = unsafe linux_notify(socket, message, -1)
    }

    /// Leaves a descriptor with the manager, which hands it to the next process of this service (`LeftDescriptors`). It is
    /// not looked at meanwhile: each frame for a TAP device would wake whoever polls it (FDPOLL, systemd 246).
    public func keep(_ descriptor: Int32, as name: String) {
        guard let socket else { return }
        // Both strings live for the call.
        _ = unsafe linux_notify(socket, "FDSTORE=1\nFDNAME=\(name)\nFDPOLL=0", descriptor)
    }

    /// Has the manager close what was left with it under these names; returns when it has.
    public func forget(_ names: [String]) {
        for name in names { tell("FDSTOREREMOVE=1\nFDNAME=\(name)") }
        if !names.isEmpty { settle() }
    }

    /// Waits, five seconds at most, until the manager has acted on all that it was told.
    public func settle() {
        guard let socket else { return }
        // The string lives for the call.
        _ = unsafe linux_notify_barrier(socket, 5000)
    }
}
