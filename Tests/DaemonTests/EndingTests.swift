import Descriptors
import Foundation
import Loopback
import Testing

/// A service manager as sd_notify(3) describes it: a socket that takes datagrams. A barrier's descriptor, for which there
/// is no room in a plain recv(2), is closed by the kernel when its message is taken.
private final class NotifySocket {
    let path: String
    private let descriptor: Int32

    init(in directory: String) throws {
        path = directory + "/notify"
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        try #require(descriptor >= 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let bound = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(bound == 0)
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// The next message, waiting for a minute at most.
    func next() -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        var count = 0
        // An io_uring that this thread had in an earlier test interrupts it once more when the kernel takes it apart, and
        // with a limit of time the call is not restarted (signal(7)).
        repeat { count = unsafe recv(descriptor, &buffer, buffer.count, 0) } while count < 0 && errno == EINTR
        return count < 0 ? nil : String(decoding: buffer.prefix(count), as: UTF8.self)
    }

    /// Takes messages until this one has come.
    func await(_ message: String) -> Bool {
        while let next = next() { if next == message { return true } }
        return false
    }
}

/// How a process ends, and what becomes of a device that appears meanwhile.
@Suite(.serialized)
struct EndingTests {
    private func start(_ world: World, _ manager: NotifySocket) throws -> ChildProcess {
        try ChildProcess(
            "/usr/bin/env",
            [
                "NOTIFY_SOCKET=\(manager.path)", World.daemonPath, "--domid", "5", "--xen",
                "loopback:\(world.directory)", "--log-level", "critical",
            ])
    }

    private func removeDisk(_ world: World) throws {
        try world.write([World.back("online"): "0", World.back("state"): "5"])
        #expect(try world.waitForState("6"))
        try world.remove("/local/domain/0/backend/vbd/5")
    }

    @Test func `the last disk goes: the manager is told, then the process ends`() throws {
        let world = try World()
        let manager = try NotifySocket(in: world.directory)
        let daemon = try start(world, manager)
        #expect(manager.await("READY=1"))
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        try removeDisk(world)
        #expect(manager.await("STOPPING=1"))
        #expect(daemon.ended == nil, "it must wait until the manager has taken notice")
        #expect(manager.await("BARRIER=1"))
        #expect(daemon.wait() == .exited(0))
        #expect(try world.status == nil)
    }

    @Test func `a disk that comes after the last look of the process has another one started`() throws {
        let world = try World()
        let manager = try NotifySocket(in: world.directory)
        let daemon = try start(world, manager)
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        try removeDisk(world)
        #expect(manager.await("STOPPING=1"))
        // The manager still took the process for a running one when this disk's event came.
        try world.createDisk("null", 51728)
        #expect(manager.await("BARRIER=1"))
        #expect(daemon.wait() == .exited(75))
        #expect(try world.read(World.back("state", 51728)) == "1")
        let next = try start(world, manager)
        #expect(try world.waitForState("2", 51728))
        next.kill()
    }

    @Test func `a process that is about to end has given its lock back before it looks for the last time`() throws {
        let world = try World()
        let manager = try NotifySocket(in: world.directory)
        let daemon = try start(world, manager)
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        try removeDisk(world)
        #expect(manager.await("BARRIER=1"))
        #expect(daemon.wait() == .exited(0))
        let next = try start(world, manager)
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        next.kill()
    }

    @Test func `a manager that does not answer holds nobody up for ever`() throws {
        let world = try World()
        let manager = try NotifySocket(in: world.directory)
        let daemon = try start(world, manager)
        try world.createDisk("null")
        #expect(try world.waitForState("2"))
        try removeDisk(world)
        #expect(daemon.wait() == .exited(0))
    }

    @Test func `one process serves both types, and ends when both are gone`() throws {
        let world = try World()
        let daemon = try world.startDaemon()
        try world.createDisk("null")
        let tap = "/local/domain/0/backend/vbd3/5/51728"
        try world.write([
            "\(tap)/frontend": World.front("", 51728), "\(tap)/frontend-id": "5", "\(tap)/online": "1",
            "\(tap)/state": "1", "\(tap)/mode": "w", "\(tap)/params": "null", World.front("state", 51728): "1",
        ])
        #expect(try world.waitForState("2"))
        #expect(try world.wait("\(tap)/state", "2"))
        try removeDisk(world)
        try world.write(["\(tap)/online": "0", "\(tap)/state": "5"])
        #expect(try world.wait("\(tap)/state", "6"))
        #expect(daemon.ended == nil)
        try world.remove("/local/domain/0/backend/vbd3/5")
        #expect(daemon.wait() == .exited(0))
    }

    @Test func `with --type others are left alone`() throws {
        let world = try World()
        let daemon = try world.startDaemon(["--type", "vbd3"])
        let tap = "/local/domain/0/backend/vbd3/5/51728"
        try world.createDisk("null")
        try world.write(["\(tap)/state": "1", World.front("state", 51728): "1"])
        #expect(try world.wait("\(tap)/state", "2"))
        #expect(try world.read(World.back("state")) == "1")
        daemon.kill()
    }
}
