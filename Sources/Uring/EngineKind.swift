internal import CLinux
public import Descriptors

/// Which kernel interface carries the I/O, as asked for on the command line.
public enum EngineKind: String, CaseIterable, Sendable {
    /// io_uring where this process may use it, else libaio.
    case auto
    case uring = "io_uring"
    case libaio
}

/// The interface that is used, and why.
public struct EngineChoice: Equatable, Sendable {
    /// `.uring` or `.libaio`.
    public let kind: EngineKind
    /// One line for the log: `libaio: io_uring is switched off for this process (kernel.io_uring_disabled=2)`.
    public let reason: String

    /// Tries io_uring once and decides.
    ///
    /// - Throws: a fault that says what forbids io_uring, when io_uring was asked for by name.
    public init(for wish: EngineKind) throws(Fault) {
        let obstacle = wish == .libaio ? nil : UringObstacle.find()
        try self.init(for: wish, obstacle: obstacle)
    }

    /// The decision by itself.
    init(for wish: EngineKind, obstacle: UringObstacle?) throws(Fault) {
        switch (wish, obstacle) {
        case (.libaio, _): self.init(kind: .libaio, reason: "libaio: asked for")
        case (.uring, nil): self.init(kind: .uring, reason: "io_uring: asked for")
        case (.auto, nil): self.init(kind: .uring, reason: "io_uring: available")
        case (.auto, let obstacle?): self.init(kind: .libaio, reason: "libaio: \(obstacle.description)")
        case (.uring, let obstacle?): throw Fault("engine io_uring: \(obstacle.description)", errno: obstacle.code)
        }
    }

    private init(kind: EngineKind, reason: String) {
        self.kind = kind
        self.reason = reason
    }
}

/// What keeps this process from io_uring.
struct UringObstacle: Equatable, CustomStringConvertible {
    /// The errno of making a ring.
    let code: Int32
    /// kernel.io_uring_disabled: 0 allowed, 1 only privileged processes, 2 nobody; `nil` where the kernel lacks it.
    let disabled: UInt8?

    /// Makes a small ring and throws it away; `nil` when that works.
    static func find() -> UringObstacle? {
        do throws(Fault) {
            _ = try UringRing(entries: 4)
            return nil
        } catch {
            return UringObstacle(code: error.code, disabled: readDisabledSwitch())
        }
    }

    private static func readDisabledSwitch() -> UInt8? {
        let value = unsafe linux_read_digit("/proc/sys/kernel/io_uring_disabled")
        return value < 0 ? nil : UInt8(truncatingIfNeeded: value)
    }

    var description: String {
        switch (code, disabled) {
        case (ENOSYS, _): "this kernel has no io_uring, or one older than Linux 5.11"
        case (EPERM, let value?) where value > 0:
            "io_uring is switched off for this process (kernel.io_uring_disabled=\(value))"
        case (EPERM, _), (EACCES, _): "io_uring is forbidden to this process, by seccomp or a security module"
        case (ENOMEM, _): "io_uring has no memory (RLIMIT_MEMLOCK)"
        default: "io_uring does not start (\(Fault("io_uring_setup", errno: code)))"
        }
    }
}
