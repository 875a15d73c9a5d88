internal import CLinux
public import Descriptors
internal import Glibc

/// What a TAP device may leave undone in frames that it hands out, because whoever reads them does it or takes them so.
public struct TapOffloads: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let checksum = TapOffloads(rawValue: linux_tap_checksum)
    /// Both need `checksum`.
    public static let segmentationV4 = TapOffloads(rawValue: linux_tap_tso4)
    public static let segmentationV6 = TapOffloads(rawValue: linux_tap_tso6)
}

/// A TAP device with one descriptor per queue; gone with the value, unless it is persistent.
///
/// It is known by its interface's number: scripts rename it.
public final class TapDevice: Sendable {
    /// As it was made or found.
    public let name: String
    /// The interface's number.
    public let index: Int32
    /// What frames are read from and written to; all non-blocking, each frame behind a virtio header of 10 bytes.
    public let queues: [OwnedQueue]

    /// One queue's descriptor.
    public final class OwnedQueue: Sendable {
        private let descriptor: OwnedDescriptor
        public init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
        public var number: Int32 { descriptor.number }

        /// Its device goes with the last descriptor, whatever a script calls it now. Nothing happens to what is no queue.
        public func letDeviceGo() {
            guard linux_tap_index(number) > 0 else { return }
            // Nothing about a queue of ours can be refused.
            _ = linux_tap_set_persistent(number, 0)
        }
    }

    /// Makes the device, down and without carrier, or takes over a persistent one of that name that nobody serves.
    ///
    /// - Parameters:
    ///   - keepsCarrier: one that is taken over has its carrier from the beginning, and frames for the first queue
    ///   only: who had it before was killed, and the host is to notice as little of that as can be.
    ///   - left: its first queues, if somebody has kept them open (`ofOneDevice`): they are as they were.
    /// - Throws: a fault that names the device: EBUSY if it is served by somebody, EINVAL if the name belongs to an
    ///   interface of another kind, EPERM without CAP_NET_ADMIN.
    public init(
        _ name: String, queues count: Int, keepsCarrier: Bool = false, left: [OwnedQueue] = []
    ) throws(Fault) {
        if keepsCarrier, left.isEmpty { Self.awaitEnd(of: name) }
        self.name = try left.first.map { queue throws(Fault) in try Self.name(of: queue) } ?? name
        var (queues, hasExisted) = (left, !left.isEmpty)
        while queues.count < max(1, count) {
            let queue = try Self.open(self.name, isFirst: queues.isEmpty, &hasExisted)
            // The fewer frames get lost on queues that nobody reads.
            if keepsCarrier, !queues.isEmpty { _ = linux_tap_set_attached(queue.number, 0) }
            queues.append(queue)
        }
        self.queues = queues
        index = try Self.check(linux_tap_index(queues[0].number), "find TAP device \(name)")
        if !hasExisted || !keepsCarrier { try setCarrier(false) }
        // It may have got another one since.
        if !hasExisted { try setAddress() }
    }

    private static func open(_ name: String, isFirst: Bool, _ hasExisted: inout Bool) throws(Fault) -> OwnedQueue {
        var existed: Int32 = 0
        let number = unsafe linux_tap_open(name, isFirst ? 1 : 0, &existed)
        if isFirst { hasExisted = existed != 0 }
        return OwnedQueue(try OwnedDescriptor(number, attempt(name, errno: -number)))
    }

    /// The first of these that are queues of the same device as all before.
    public static func ofOneDevice(_ queues: [OwnedQueue]) -> [OwnedQueue] {
        guard let index = queues.first.map({ linux_tap_index($0.number) }), index > 0 else { return [] }
        return Array(queues.prefix { linux_tap_index($0.number) == index })
    }

    /// Scripts may have given it another one.
    private static func name(of queue: OwnedQueue) throws(Fault) -> String {
        var name = [UInt8](repeating: 0, count: 16)
        // `name` has IFNAMSIZ bytes.
        _ = try check(unsafe linux_tap_name(queue.number, &name), "find a TAP device's name")
        return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    }

    /// What the TAP device of this number is called now; nil if there is none, or the number is another kind of
    /// interface's.
    public static func name(ofIndex index: Int32) -> String? {
        var name = [UInt8](repeating: 0, count: 16)
        // `name` has IFNAMSIZ bytes.
        guard index > 0, unsafe linux_tap_name_of(index, &name) == 0 else { return nil }
        return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    }

    /// A process that was killed is gone before its io_uring is, and that has the device's queues: frames would go to them, and
    /// ours would not be the first.
    private static func awaitEnd(of name: String) {
        for _ in 0..<1000 {
            // Only reads the name.
            guard unsafe linux_tap_has_carrier(name) > 0 else { return }
            usleep(1000)
        }
    }

    private func setAddress() throws(Fault) {
        // Bridges never take this address for their own, whatever guests have (xen-netback does the same).
        let address: [UInt8] = [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]
        // Six bytes, for the length of the call.
        _ = try Self.check(
            unsafe linux_tap_set_address(queues[0].number, address), "set the address of \(name)")
    }

    /// Takes away a device that was left behind, if there is one. An interface of another kind is none of ours.
    public static func remove(_ name: String) throws(Fault) {
        // Only reads the name.
        guard unsafe Self.name(ofIndex: linux_interface_index(name)) != nil else { return }
        let left = try TapDevice(name, queues: 1)
        try left.setPersistent(false)
    }

    /// What was attempted, with the thing that is missing or in the way (linux/if_tun.h; drivers/net/tun.c, tun_set_iff).
    private static func attempt(_ name: String, errno code: Int32) -> String {
        switch code {
        case ENOENT, ENODEV, ENXIO: "open /dev/net/tun for TAP device \(name)"
        case EPERM, EACCES: "make TAP device \(name), which takes CAP_NET_ADMIN"
        case EBUSY: "make TAP device \(name), which somebody serves"
        case EINVAL: "make TAP device \(name), which is another interface's name"
        default: "make TAP device \(name)"
        }
    }

    /// Whether a cable is in: the guest's end is alive.
    public func setCarrier(_ isOn: Bool) throws(Fault) {
        _ = try Self.check(linux_tap_set_carrier(queues[0].number, isOn ? 1 : 0), "set the carrier of \(name)")
    }

    /// What the host may leave undone.
    public func setOffloads(_ offloads: TapOffloads) throws(Fault) {
        _ = try Self.check(linux_tap_set_offloads(queues[0].number, offloads.rawValue), "set offloads of \(name)")
    }

    /// Frames for the guest go to the first `count` queues only.
    public func attach(queues count: Int) throws(Fault) {
        for (number, queue) in queues.enumerated() where number > 0 {
            let result = linux_tap_set_attached(queue.number, number < count ? 1 : 0)
            // EINVAL: it is already as it should be.
            guard result == 0 || result == -EINVAL else {
                throw Fault("attach queue \(number) of \(name)", errno: -result)
            }
        }
    }

    /// The device, its name and what it is attached to live on when the process ends.
    public func setPersistent(_ isPersistent: Bool) throws(Fault) {
        _ = try Self.check(
            linux_tap_set_persistent(queues[0].number, isPersistent ? 1 : 0), "keep \(name)")
    }

    /// Which queue a frame from the host goes to is the kernel's choice again: that from which its flow's were written.
    public func resetSteering() throws(Fault) { try setSteering(-1) }

    func setSteering(_ program: Int32) throws(Fault) {
        _ = try Self.check(linux_tap_set_steering(queues[0].number, program), "steer the frames of \(name)")
    }

    /// The longest packet, Ethernet header not counted.
    public func setMTU(_ bytes: Int) throws(Fault) {
        _ = try Self.check(linux_interface_set_mtu(index, Int32(clamping: bytes)), "set the MTU of \(name) to \(bytes)")
    }

    /// Up: what the toolstack's script does; for whoever has none.
    public func setUp(_ isUp: Bool) throws(Fault) {
        _ = try Self.check(linux_interface_set_up(index, isUp ? 1 : 0), "set \(name) \(isUp ? "up" : "down")")
    }

    private static func check(_ result: Int32, _ operation: String) throws(Fault) -> Int32 {
        guard result >= 0 else { throw Fault(operation, errno: -result) }
        return result
    }
}
