import CXen
import Descriptors
import Foundation
import Glibc
import Loopback
import SharedRing
import Testing
import XenWire

/// A model hypervisor in a directory of its own, with domain 5.
private final class World {
    let directory: String
    let server: HypervisorServer
    let guest: GuestDomain
    let frame: UInt32

    init() throws {
        var template = Array("/tmp/loopback-test-XXXXXX".utf8CString)
        directory = try unsafe String(cString: #require(mkdtemp(&template)))
        server = try HypervisorServer(directory: directory)
        try server.start()
        guest = try server.createDomain(DomainID(5), pages: 64, references: 64)
        frame = try guest.allocateFrames(1)
        guest.grants.grant(9, frame: frame, to: DomainID(0), readOnly: false)
    }

    deinit {
        server.stop()
        unsafe rmdir(directory)
    }

    /// A process of dom0 that does something with domain 5 and then only waits.
    func peer(_ action: String, _ number: UInt32) throws -> ChildProcess {
        var ends: [Int32] = [0, 0]
        #expect(unsafe pipe(&ends) == 0)
        defer { close(ends[0]) }
        let peer = try ChildProcess(Self.peerPath, [directory, action, "5", "\(number)"], output: ends[1])
        close(ends[1])
        var line = [UInt8](repeating: 0, count: 16)
        #expect(unsafe read(ends[0], &line, line.count) > 0, "the peer must report that it is ready")
        return peer
    }

    /// The hypervisor learns of a death from its socket; this waits until it has.
    func eventually(_ condition: () -> Bool) -> Bool {
        for _ in 0..<60_000 {
            if condition() { return true }
            usleep(1000)
        }
        return false
    }

    private static var peerPath: String {
        var path = [CChar](repeating: 0, count: 4096)
        guard unsafe readlink("/proc/self/exe", &path, path.count - 1) > 0 else { return "" }
        let executable = String(decoding: path.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return executable.prefix(upTo: executable.lastIndex(of: "/") ?? executable.startIndex) + "/loopback-peer"
    }
}

@Test func processesCopyAndMapOverTheSocket() throws {
    let world = try World()
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    let table = try platform.openGrantTable()
    let page = try unsafe #require(world.guest.memory(ofFrame: world.frame))
    unsafe page.storeBytes(of: 0x77, as: UInt8.self)
    var byte: UInt8 = 0
    let status = unsafe withUnsafeMutableBytes(of: &byte) { bytes -> Int16 in
        guard let to = bytes.baseAddress else { return 1 }
        var segment = unsafe xen_grant_copy_segment.fromGuest(
            DomainID(5), GrantReference(9), offset: 0, length: 1, to: to)
        _ = unsafe table.copy(&segment, count: 1, .fromGuest)
        return segment.status
    }
    #expect(status == 0)
    #expect(byte == 0x77)
    let mapping = try table.map([GrantReference(9)], of: DomainID(5), writable: true)
    #expect(unsafe mapping.base.load(as: UInt8.self) == 0x77)
    unsafe mapping.base.storeBytes(of: 0x78, as: UInt8.self)
    #expect(unsafe page.load(as: UInt8.self) == 0x78)
    #expect(!world.guest.grants.end(GrantReference(9)))
    _ = consume mapping
    #expect(world.guest.grants.end(GrantReference(9)))
}

@Test func faultsOfTheServerReachTheCaller() throws {
    let world = try World()
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    let table = try platform.openGrantTable()
    #expect(throws: Fault("map grants 9, 10 of domain 5", errno: EINVAL)) {
        _ = try table.map([GrantReference(9), GrantReference(10)], of: DomainID(5), writable: true)
    }
    #expect(throws: Fault("bind to event channel 3 of domain 5", errno: EINVAL)) {
        _ = try platform.bindEventChannel(to: EventPort(3), of: DomainID(5))
    }
    let other = try LoopbackPlatform(directory: world.directory, domain: DomainID(3)).openGrantTable()
    #expect(throws: Fault.self) { _ = try other.map([GrantReference(9)], of: DomainID(5), writable: true) }
    #expect(throws: Fault.self) { try LoopbackPlatform(directory: "\(world.directory)/none", domain: DomainID(0)) }
}

@Test func eventsTravelBetweenDescriptors() throws {
    let world = try World()
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    let port = try world.guest.openPort(for: DomainID(0))
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5))
    #expect(bound.drain(), "a new port starts pending")
    #expect(!bound.drain())
    port.channel.notify()
    #expect(bound.drain())
    bound.notify()
    #expect(port.channel.drain())
}

@Test func aKilledProcessLosesItsMaps() throws {
    let world = try World()
    let peer = try world.peer("map", 9)
    #expect(world.server.mappedPages(of: DomainID(5)) == 1)
    #expect(!world.guest.grants.end(GrantReference(9)))
    peer.kill()
    #expect(peer.wait() == .killed(signal: SIGKILL))
    #expect(world.eventually { world.server.mappedPages(of: DomainID(5)) == 0 })
    #expect(world.guest.grants.end(GrantReference(9)))
    #expect(try unsafe #require(world.guest.memory(ofFrame: world.frame)).load(as: UInt8.self) == 0x5a)
}

@Test func aKilledProcessStopsCopying() throws {
    let world = try World()
    let peer = try world.peer("copy", 9)
    // It copies without a pause, so that it dies within a batch almost surely.
    peer.kill()
    _ = peer.wait()
    #expect(world.eventually { world.guest.grants.end(GrantReference(9)) })
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    // Every record was given back, also that of the process that died in the middle of a batch.
    for _ in 0..<200 { _ = try platform.openGrantTable().copiesNothing(of: DomainID(5)) }
}

@Test func aKilledProcessUnbindsItsPorts() throws {
    let world = try World()
    let port = try world.guest.openPort(for: DomainID(0))
    let peer = try world.peer("bind", port.number.rawValue)
    #expect(port.channel.drain())
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    #expect(throws: Fault.self) { _ = try platform.bindEventChannel(to: port.number, of: DomainID(5)) }
    peer.kill()
    _ = peer.wait()
    var bound: (any EventChannel)?
    #expect(
        world.eventually {
            bound = try? platform.bindEventChannel(to: port.number, of: DomainID(5))
            return bound != nil
        })
    #expect(bound?.drain() == true, "what was lost in between shows as an event")
}

/// On a real host the kernel lets it go a while after the process's end.
@Test func aChannelThatIsBoundStillIsWaitedFor() throws {
    let world = try World()
    let port = try world.guest.openPort(for: DomainID(0))
    let peer = try world.peer("bind", port.number.rawValue)
    let platform = try LoopbackPlatform(directory: world.directory, domain: DomainID(0))
    let process = peer.identifier
    let end = Thread {
        usleep(300_000)
        _ = kill(process, SIGKILL)
    }
    end.start()
    let bound = try platform.bindEventChannel(to: port.number, of: DomainID(5), again: true)
    #expect(bound.drain())
    #expect(peer.wait() == .killed(signal: SIGKILL))
    #expect(throws: Fault("bind to event channel 9999 of domain 5", errno: EINVAL)) {
        _ = try platform.bindEventChannel(to: EventPort(9999), of: DomainID(5), again: true)
    }
}

extension GrantTable {
    /// Attaches a domain by copying from a reference that it does not have; the status.
    fileprivate func copiesNothing(of domain: DomainID) -> Int16 {
        var byte: UInt8 = 0
        return unsafe withUnsafeMutableBytes(of: &byte) { bytes -> Int16 in
            guard let to = bytes.baseAddress else { return 1 }
            var segment = unsafe xen_grant_copy_segment.fromGuest(
                domain, GrantReference(60), offset: 0, length: 1, to: to)
            _ = unsafe self.copy(&segment, count: 1, .fromGuest)
            return segment.status
        }
    }
}
