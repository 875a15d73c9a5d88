internal import CLinux
internal import Descriptors
internal import XenWire

/// The calls of /dev/xen/evtchn, one each, with their answers as the kernel gives them: a value or a negative errno.
protocol EventCalls: AnyObject {
    var descriptor: Int32 { get }
    /// The descriptor may bind to ports of this domain only, for good.
    func restrict(to domain: DomainID) -> Int32
    /// The local port.
    func bind(to port: EventPort, of domain: DomainID) -> Int32
    func notify(_ port: UInt32) -> Int32
    /// Takes up to `capacity` ports that had an event, and masks them; how many.
    func read(_ ports: UnsafeMutablePointer<UInt32>, capacity: Int) -> Int
    func unmask(_ port: UInt32) -> Int32
    /// Empties the buffer and ends its overflow.
    func reset() -> Int32
}

/// /dev/xen/evtchn of the running kernel. One descriptor per queue: NOTIFY and unmasking take a lock of the descriptor.
/// Closing it closes its ports.
final class EventDevice: EventCalls {
    static let path = "/dev/xen/evtchn"

    private let file: OwnedDescriptor

    init() throws(Fault) {
        // The path is only read.
        file = try OwnedDescriptor(unsafe linux_open(Self.path, O_RDWR | O_NONBLOCK, 0), "open \(Self.path)")
    }

    var descriptor: Int32 { file.number }

    func restrict(to domain: DomainID) -> Int32 { linux_events_restrict(file.number, domain.rawValue) }

    func bind(to port: EventPort, of domain: DomainID) -> Int32 {
        linux_events_bind(file.number, UInt32(domain.rawValue), port.rawValue)
    }

    func notify(_ port: UInt32) -> Int32 { linux_events_notify(file.number, port) }

    func read(_ ports: UnsafeMutablePointer<UInt32>, capacity: Int) -> Int {
        unsafe linux_events_read(file.number, ports, capacity)
    }

    func unmask(_ port: UInt32) -> Int32 { linux_events_unmask(file.number, port) }

    func reset() -> Int32 { linux_events_reset(file.number) }
}
