import Descriptors
import Loopback
import SharedRing
import Testing
import XenWire

@Test func bindingNeedsAnUnboundPortForThisDomain() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 16, references: 16)
    let port = try guest.openPort(for: DomainID(0))
    let foreign = try guest.openPort(for: DomainID(3))
    #expect(throws: Fault("bind to event channel 99 of domain 5", errno: 22)) {
        _ = try platform.bindEventChannel(to: EventPort(99), of: DomainID(5))
    }
    #expect(throws: Fault.self) { _ = try platform.bindEventChannel(to: foreign.number, of: DomainID(5)) }
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    #expect(throws: Fault.self) { _ = try platform.bindEventChannel(to: port.number, of: DomainID(5)) }
    _ = bound
}

@Test func aNewPortStartsPending() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 16, references: 16)
    let port = try guest.openPort(for: DomainID(0))
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    #expect(!bound.drain(), "nothing arrives before the scheduler delivers it")
    platform.deliverable.forEach { $0.deliver() }
    #expect(bound.drain())
    #expect(!port.channel.drain())
}

@Test func nothingArrivesBeforeUnmask() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 16, references: 16)
    let port = try guest.openPort(for: DomainID(0))
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    platform.deliverable.forEach { $0.deliver() }
    #expect(bound.drain())
    port.channel.notify()
    port.channel.notify()
    #expect(platform.deliverable.isEmpty)
    bound.unmask()
    #expect(platform.deliverable.count == 1)
    platform.deliverable.forEach { $0.deliver() }
    #expect(bound.drain())
    #expect(!bound.drain())
}

@Test func aClosedEndLeavesTheOtherUnboundForTheSameDomain() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 16, references: 16)
    let port = try guest.openPort(for: DomainID(0))
    var bound: (any EventChannel)? = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    platform.deliverable.forEach { $0.deliver() }
    #expect(bound?.drain() == true)
    bound = nil
    port.channel.notify()
    #expect(platform.deliverable.isEmpty, "sent to an unbound port: dropped")
    let again = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    #expect(platform.deliverable.count == 1, "a new port starts pending")
    again.notify()
    platform.deliverable.forEach { $0.deliver() }
    #expect(port.channel.drain())
    #expect(again.drain())
}

@Test func aDestroyedDomainsPortsAreClosed() throws {
    let platform = ModelPlatform()
    let guest = try platform.createDomain(DomainID(5), pages: 16, references: 16)
    let port = try guest.openPort(for: DomainID(0))
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    platform.destroyDomain(DomainID(5))
    bound.notify()
    #expect(platform.deliverable.filter { _ in true }.isEmpty || !port.channel.drain())
    #expect(throws: Fault.self) { _ = try platform.bindEventChannel(to: port.number, of: DomainID(5)) }
}
