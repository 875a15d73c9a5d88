internal import CLinux
internal import Descriptors
internal import Glibc
internal import NetFrames
internal import SharedRing
internal import Synchronization
internal import Tap
internal import XenWire

/// A guest that is nothing but a cable: what comes through its network interface goes out at a TAP device, and back. With it
/// programs in two network namespaces talk to each other through a backend.
public final class NetRelay {
    private let setting: RunSetting
    private let tap: TapDevice
    private let interface = InterfaceDescription(domain: NetRun.domain, address: NetRun.address)

    /// - Parameters:
    ///   - name: the TAP device's.
    ///   - near: the backend's network namespace, a path; the calling thread stays there.
    ///   - far: the TAP device's.
    public init(_ name: String, near: String, far: String, _ setting: RunSetting) throws(LoopbackError) {
        self.setting = setting
        tap = try host { () throws(Fault) in
            try NetworkNamespace.enter(far)
            let tap = try TapDevice(name, queues: 1)
            try tap.setOffloads([.checksum, .segmentationV4, .segmentationV6])
            try tap.setCarrier(true)
            try NetworkNamespace.enter(near)
            return tap
        }
    }

    /// Carries frames until `stop` is readable.
    ///
    /// - Parameters:
    ///   - killNanoseconds: the daemon is killed so often.
    ///   - ready: called once, when frames are carried.
    /// - Returns: what came of the kills.
    public func run(
        stop: Int32, killNanoseconds: UInt64? = nil, ready: () -> Void
    ) throws(LoopbackError) -> KillSeries? {
        let served = try ServedInterface(interface, setting, pages: 2048)
        defer { served.end() }
        do throws(LoopbackError) {
            let carrier = try host { [tap, setting] () throws(Fault) in
                try Carrier(served.guest, tap, processor: setting.processors?.frontend)
            }
            try served.connect([carrier.published])
            try host { () throws(Fault) in try carrier.start(until: stop) }
            ready()
            let kills = try watch(served, carrier, killNanoseconds)
            try carrier.end()
            try served.detach()
            return kills
        } catch {
            throw served.explained(error)
        }
    }

    private func watch(
        _ served: ServedInterface, _ carrier: Carrier, _ killNanoseconds: UInt64?
    ) throws(LoopbackError) -> KillSeries? {
        guard var kills = killNanoseconds.map({ KillSeries(every: $0) }) else { return nil }
        while !carrier.isDone {
            usleep(2000)
            try served.kill(&kills) { carrier.isDone ? nil : carrier.answered }
        }
        return kills
    }
}

/// A cable and the thread that carries its frames.
///
/// The cable is the thread's while it runs, and the owner's before and after.
private final class Carrier: @unchecked Sendable {
    let published: PublishedQueue
    private let progress = CableProgress()
    private let processor: Int32?
    private var cable: Cable?
    private var fault: NetLoadFault?
    private var thread: JoinableThread?
    private let done = Atomic<Bool>(false)

    init(_ guest: GuestDomain, _ tap: TapDevice, processor: Int32?) throws(Fault) {
        let cable = Cable(
            try TransmitLane(guest, backend: DomainID(0), frames: 16, longest: Cable.longest),
            try ReceiveLane(guest, backend: DomainID(0)), tap: tap.queues[0].number, progress)
        published = cable.published
        self.cable = consume cable
        self.processor = processor
    }

    var isDone: Bool { done.load(ordering: .acquiring) }
    /// Changes with every response.
    var answered: UInt64 { progress.answers.load(ordering: .relaxed) }

    func start(until stop: Int32) throws(Fault) {
        thread = try JoinableThread(name: "netfront") { [self] in
            if let processor { _ = linux_pin(processor) }
            if var cable = cable.take() {
                do throws(NetLoadFault) { try cable.carry(until: stop) } catch { fault = error }
            }
            done.store(true, ordering: .releasing)
        }
    }

    /// Waits for the end of `start`'s thread.
    func end() throws(LoopbackError) {
        thread?.join()
        thread = nil
        if let fault { throw LoopbackError(fault) }
    }
}

/// Turns of a cable that found responses.
final class CableProgress: Sendable {
    let answers = Atomic<UInt64>(0)
}

/// Both rings of the guest, and its TAP device.
@safe struct Cable: ~Copyable {
    private var transmit: TransmitLane
    private var receive: ReceiveLane
    private let tap: Int32
    private let progress: CableProgress
    /// A frame on its way to the TAP device, and the header of one that comes from it.
    private let memory: UnsafeMutableRawPointer

    /// The longest frame, in whole pages.
    static let longest = 17 << 12
    private static let header = VirtioHeader.size
    /// In the middle of a page: a copy from a page's start to a little behind one's start is slow (docs/decisions/0019).
    private static let headroom = 2048

    init(
        _ transmit: consuming TransmitLane, _ receive: consuming ReceiveLane, tap: Int32, _ progress: CableProgress
    ) {
        self.progress = progress
        self.transmit = transmit
        self.receive = receive
        self.tap = tap
        unsafe memory = .allocate(byteCount: Self.headroom + Int(NetRing.slots) << 12, alignment: 4096)
    }

    deinit { unsafe memory.deallocate() }

    var published: PublishedQueue {
        PublishedQueue(
            transmit: transmit.ringReference, receive: receive.ringReference, transmitPort: transmit.port.number,
            receivePort: receive.port.number)
    }

    mutating func carry(until stop: Int32) throws(NetLoadFault) {
        receive.fill(upTo: Int(NetRing.slots))
        while true {
            let hasSent = try send()
            let hasTaken = try take()
            guard !hasSent, !hasTaken, transmit.arm(), receive.arm() else { continue }
            if sleep(stop) { return }
        }
    }

    /// True if it is time to stop.
    private func sleep(_ stop: Int32) -> Bool {
        let (sent, taken) = (transmit.port.channel, receive.port.channel)
        let descriptors = [stop, sent.descriptor, taken.descriptor, transmit.canSend ? tap : -1]
        // As many as there are.
        let ready = unsafe linux_poll_inputs(descriptors, Int32(descriptors.count), .max)
        guard ready > 0 else { return false }
        if ready & 2 != 0 { _ = sent.drain() }
        if ready & 4 != 0 { _ = taken.drain() }
        return ready & 1 != 0
    }

    // MARK: from the TAP device to the backend

    private mutating func send() throws(NetLoadFault) -> Bool {
        do throws(NetMisbehaviour) {
            let hasReaped = try transmit.reap()
            if hasReaped { progress.answers.wrappingAdd(1, ordering: .relaxed) }
            var hasSent = false
            while transmit.canSend, readFrame() { hasSent = true }
            transmit.publish()
            return hasReaped || hasSent
        } catch { throw .backend(error) }
    }

    /// Reads a frame into the guest's memory and puts it on the ring; false if there is none.
    private mutating func readFrame() -> Bool {
        // Ten bytes, then as many as the frame's memory has.
        let bytes = unsafe linux_frame_read_apart(tap, memory, Self.header, transmit.nextFrame, Self.longest)
        guard bytes > Self.header else { return false }
        let virtio = unsafe VirtioHeader(memory)
        transmit.putFrame(bytes - Self.header, Self.flags(virtio), Self.segmentation(virtio))
        return true
    }

    /// xennet_start_xmit: a sum that is missing, or known to be right.
    private static func flags(_ header: VirtioHeader) -> TransmitFlags {
        if header.flags & VirtioHeader.needsChecksum != 0 { return [.checksumBlank, .dataValidated] }
        return header.flags & VirtioHeader.dataValid != 0 ? .dataValidated : []
    }

    private static func segmentation(_ header: VirtioHeader) -> Segmentation? {
        switch header.segmentation & ~VirtioHeader.congestion {
        case VirtioHeader.tcpV4: Segmentation(.tcpV4, size: header.segmentSize)
        case VirtioHeader.tcpV6: Segmentation(.tcpV6, size: header.segmentSize)
        default: nil
        }
    }

    // MARK: from the backend to the TAP device

    private mutating func take() throws(NetLoadFault) -> Bool {
        do throws(NetMisbehaviour) {
            guard try receive.collect() else { return false }
            progress.answers.wrappingAdd(1, ordering: .relaxed)
            while let frame = try receive.next() { write(frame) }
            receive.fill(upTo: Int(NetRing.slots))
            return true
        } catch { throw .backend(error) }
    }

    /// What the TAP device does not take is lost, as on any network.
    private func write(_ frame: ReceiveLane.Frame) {
        let bytes = unsafe memory + Self.headroom
        // As long as the longest that a ring can hold.
        unsafe receive.copy(frame, to: bytes)
        let flags: TransmitFlags =
            frame.flags.contains(.checksumBlank)
            ? [.checksumBlank, .dataValidated] : frame.flags.contains(.dataValidated) ? .dataValidated : []
        do throws(FrameFault) {
            // As Linux' netfront asks its stack: where the sum goes follows from the frame's own headers.
            let virtio = unsafe try Translation.toHost(bytes, count: frame.bytes, flags, frame.segmentation)
            unsafe virtio.store(bytes - Self.header)
            _ = unsafe linux_frame_write(tap, bytes - Self.header, Self.header + frame.bytes)
        } catch {}
    }
}
