internal import Glibc

/// The kernel's own backend drivers, as sysfs shows them.
public struct KernelDriver: Sendable {
    private let devices: String

    /// - Parameter devices: where the bus lists its devices.
    public init(devices: String = "/sys/bus/xen-backend/devices") {
        self.devices = devices
    }

    /// Whether a driver has claimed a device, which is called as there: `vbd-5-51712`.
    public func holds(_ device: String) -> Bool {
        // The path is only read.
        unsafe access("\(devices)/\(device)/driver", F_OK) == 0
    }
}
