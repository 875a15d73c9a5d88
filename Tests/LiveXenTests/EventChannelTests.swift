import Descriptors
import Glibc
import SharedRing
import Testing
import XenWire

@testable import LiveXen

/// /dev/xen/evtchn as evtchn.c behaves: a delivered port is masked until it is written back, and events that come in
/// between are one.
private final class ModelEvtchn: EventCalls {
    var bindResult: Int32 = 9
    var restrictResult: Int32 = 0
    var hasOverflowed = false
    private(set) var restrictions: [DomainID] = []
    private(set) var notifications: [UInt32] = []
    private(set) var unmasked: [UInt32] = []
    private(set) var resets = 0
    private var buffer: [UInt32] = []
    private var isMasked = false
    private var isPending = false

    /// The other end sends.
    func send() {
        isPending = true
        deliver()
    }

    private func deliver() {
        guard isPending, !isMasked else { return }
        isPending = false
        isMasked = true
        buffer.append(9)
    }

    var descriptor: Int32 { -1 }
    func restrict(to domain: DomainID) -> Int32 {
        restrictions.append(domain)
        return restrictResult
    }
    func bind(to port: EventPort, of domain: DomainID) -> Int32 { bindResult }
    func notify(_ port: UInt32) -> Int32 {
        notifications.append(port)
        return 0
    }
    func read(_ ports: UnsafeMutablePointer<UInt32>, capacity: Int) -> Int {
        if hasOverflowed { return -Int(EFBIG) }
        guard !buffer.isEmpty else { return -Int(EAGAIN) }
        let count = min(capacity, buffer.count)
        for index in 0..<count { unsafe ports[index] = buffer[index] }
        buffer.removeFirst(count)
        return count
    }
    func unmask(_ port: UInt32) -> Int32 {
        unmasked.append(port)
        isMasked = false
        deliver()
        return 0
    }
    func reset() -> Int32 {
        resets += 1
        hasOverflowed = false
        buffer = []
        return 0
    }
}

@Suite struct EventChannelTests {
    private let device = ModelEvtchn()

    private func bind(_ domain: UInt16 = 5) throws -> LiveEventChannel {
        try LiveEventChannel(device, to: EventPort(17), of: DomainID(domain))
    }

    @Test func `the descriptor is restricted to the frontend's domain before it binds`() throws {
        _ = try bind()
        #expect(device.restrictions == [DomainID(5)])
    }

    @Test func `domain 0 cannot be restricted to and is not`() throws {
        _ = try bind(0)
        #expect(device.restrictions.isEmpty)
    }

    @Test func `a kernel without the restriction is good enough, a refusal is not`() throws {
        device.restrictResult = -ENOTTY
        _ = try bind()
        device.restrictResult = -EACCES
        #expect(throws: Fault("restrict event channels to domain 5", errno: EACCES)) { _ = try bind() }
    }

    @Test(arguments: [
        (EINVAL, "(not offered to this domain, or bound by another process)"),
        (ENOSPC, "(this domain has no port left)"),
        (ESRCH, "No such process"),
    ]) func `a port that cannot be bound is named with the reason`(code: Int32, words: String) {
        device.bindResult = -code
        #expect {
            _ = try bind()
        } throws: { error in
            "\(error)".hasPrefix("bind to event channel 17 of domain 5") && "\(error)".contains(words)
        }
    }

    @Test func `events that come before the port is unmasked are one event after it`() throws {
        let channel = try bind()
        device.send()
        #expect(channel.drain())
        #expect(!channel.drain())
        for _ in 0..<1000 { device.send() }
        #expect(!channel.drain(), "masked")
        channel.unmask()
        #expect(channel.drain())
        #expect(!channel.drain())
        #expect(device.unmasked == [9])
    }

    @Test func `a port is written back only after it was read`() throws {
        let channel = try bind()
        channel.unmask()
        #expect(device.unmasked.isEmpty, "the kernel's buffer could overflow otherwise")
        device.send()
        #expect(channel.drain())
        channel.unmask()
        channel.unmask()
        #expect(device.unmasked == [9])
    }

    @Test func `an overflow is reset and counts as an event`() throws {
        let channel = try bind()
        device.send()
        device.hasOverflowed = true
        #expect(channel.drain())
        #expect(device.resets == 1)
        channel.unmask()
        #expect(device.unmasked == [9], "its event may be among those that were lost")
        device.send()
        #expect(channel.drain())
    }

    @Test func `a notification goes to the local port`() throws {
        try bind().notify()
        #expect(device.notifications == [9])
    }
}
