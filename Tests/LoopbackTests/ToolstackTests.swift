import Descriptors
import SharedRing
import Testing
import XenWire
import Xenbus
import Xenstore

@testable import Loopback

/// dom0's toolstack, guest 5 and a backend that the test plays, all in one thread.
private final class World {
    let store = InProcessXenstore()
    let clock = ModelClock()
    let platform = ModelPlatform()
    let disk = DiskDescription(domain: DomainID(5), volume: "/dev/vg/disk")
    let dom0: XenstoreClient
    let guest: GuestDomain
    lazy var toolstack = Toolstack(client(0), patience)
    /// What the backend does with its turns; it has one whenever somebody waits.
    var backend: [(World) throws -> Void] = []

    init() throws {
        dom0 = try store.client(DomainID(0))
        guest = try platform.createDomain(DomainID(5), pages: 4000, references: 4000)
        try toolstack.createDomain(DomainID(5))
    }

    func client(_ domain: UInt16) -> XenstoreClient {
        guard let client = try? store.client(DomainID(domain)) else { preconditionFailure("no client") }
        return client
    }

    /// Waiting lets the backend have a turn; when it has none left, time passes.
    var patience: XenstorePatience {
        XenstorePatience(clock: clock) { [unowned self] client, milliseconds throws(XenstoreError) in
            if backend.isEmpty {
                clock.advance(by: UInt64(milliseconds) * 1_000_000)
            } else {
                takeTurn()
            }
            try client.processReadable()
        }
    }

    private func takeTurn() {
        let turn = backend.removeFirst()
        do {
            try turn(self)
        } catch {
            Issue.record(error)
        }
    }

    var back: XenstorePath { get throws { try disk.backendPath } }

    func read(_ path: XenstorePath) throws -> String? { try dom0.read(path)?.text }

    /// A turn in which the backend writes a node.
    static func writes(_ name: String, _ value: String) -> (World) throws -> Void {
        { world in try world.dom0.write(world.disk.backendPath.appending(name), value) }
    }

    var frontendOptions: FrontendOptions { FrontendOptions(queue: FrontQueueOptions(slots: 8)) }

    func frontend() throws -> BlockFrontend {
        try BlockFrontend(guest, client(5), at: disk.frontendPath, patience)
    }
}

@Test func aDiskHasLibxlsNodesInLibxlsOrder() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    #expect(
        world.disk.backendNodes.map(\.0) == [
            "params", "script", "frontend-id", "online", "removable", "bootable", "state", "dev", "type", "mode",
            "device-type", "discard-enable", "specification",
        ])
    let names = try Set(world.dom0.directory(world.back) ?? [])
    #expect(names == Set(world.disk.backendNodes.map(\.0) + ["frontend"]))
    #expect(try world.read(world.back.appending("params")) == "/dev/vg/disk")
    #expect(try world.read(world.back.appending("frontend")) == "/local/domain/5/device/vbd/51712")
    let front = try world.disk.frontendPath
    #expect(try world.read(front.appending("backend")) == "/local/domain/0/backend/vbd/5/51712")
    #expect(try world.read(front.appending("state")) == "1")
    #expect(try world.read(XenstorePath("/libxl/5/device/vbd/51712/backend")) == world.back.description)
    #expect(try world.dom0.permissions(of: front)?.owner == DomainID(5))
    #expect(try world.dom0.permissions(of: world.back)?.access(of: DomainID(5)) == .read)
    #expect(throws: XenstoreError.self) { try world.client(5).write(world.back.appending("params"), "/etc/shadow") }
}

@Test func attachingWaitsForInitWaitAndThenRunsTheScript() throws {
    let world = try World()
    world.backend = [
        { world in
            let status = try world.dom0.read(world.disk.backendPath.appending("hotplug-status"))
            #expect(status == nil, "the script runs after state 2")
        },
        World.writes("state", "2"),
    ]
    try world.toolstack.attach(world.disk)
    #expect(try world.read(world.back.appending("hotplug-status")) == "connected")
    #expect(try world.read(world.back.appending("physical-device-path")) == "/dev/vg/disk")
}

@Test func attachingGivesUpAfterTenSeconds() throws {
    let world = try World()
    let start = world.clock.now()
    #expect { try world.toolstack.attach(world.disk) } throws: { error in
        guard case .noState(.initWait, _, .initialising, 10_000)? = error as? LoopbackError else { return false }
        return true
    }
    #expect(world.clock.now() - start >= 10_000_000_000)
    #expect(try world.read(world.back.appending("hotplug-status")) == nil)
}

@Test func removingAsksWaitsAndCleansUp() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    world.backend = [
        { world in
            let values = try world.dom0.readAll([
                world.disk.backendPath.appending("online"), world.disk.backendPath.appending("state"),
            ])
            #expect(values.map { $0?.text } == ["0", "5"])
        },
        World.writes("state", "6"),
    ]
    #expect(try world.toolstack.remove(world.disk))
    #expect(try world.dom0.directory(XenstorePath("/local/domain/0/backend/vbd")) == nil, "empty parents go too")
    #expect(try world.dom0.directory(XenstorePath("/libxl/5/device")) == nil)
    #expect(try world.dom0.directory(XenstorePath("/local/domain/5/device/vbd")) == nil)
}

@Test func aBackendThatDoesNotCloseKeepsAnAskedDeviceAndLosesAForcedOne() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    #expect(throws: LoopbackError.self) { try world.toolstack.remove(world.disk, .asked) }
    #expect(try world.read(world.back.appending("state")) == "5")
    world.backend = [
        { world in
            let left = try world.dom0.directory(world.disk.frontendPath)
            #expect(left == nil, "the frontend's directory goes first")
        }
    ]
    #expect(try world.toolstack.remove(world.disk, .forced) == false)
    #expect(try world.dom0.directory(world.back) == nil)
}

@Test func aClosedDeviceIsNotClosedAgain() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    try world.dom0.write(world.back.appending("state"), "6")
    #expect(try world.toolstack.remove(world.disk))
}

@Test func aDomainsEndTakesItsDisksAlong() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    world.backend = [World.writes("state", "6")]
    try world.toolstack.destroyDomain(DomainID(5), [world.disk])
    #expect(try world.dom0.directory(XenstorePath.domain(5)) == nil)
    #expect(try world.dom0.isIntroduced(DomainID(5)) == false)
}

@Test func aFrontendConnectsAsBlkfrontDoes() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    world.backend = [
        World.writes("multi-queue-max-queues", "2"), World.writes("max-ring-page-order", "1"),
        World.writes("state", "2"),
        { world in
            let front = try world.disk.frontendPath
            #expect(try world.dom0.read(front.appending("state"))?.text == "3")
            #expect(try world.dom0.read(front.appending("ring-page-order"))?.text == "1")
            #expect(try world.dom0.read(front.appending("queue-1/ring-ref1"))?.unsigned(atMost: 999) != nil)
            #expect(try world.dom0.read(front.appending("queue-1/event-channel"))?.unsigned(atMost: 9) == 2)
            #expect(try world.dom0.read(front.appending("protocol"))?.text == "x86_32-abi")
        },
        World.writes("sectors", "2048"), World.writes("sector-size", "512"), World.writes("info", "4"),
        World.writes("feature-max-indirect-segments", "64"), World.writes("feature-flush-cache", "1"),
        World.writes("state", "4"),
    ]
    let frontend = try world.frontend()
    var options = FrontendOptions(abi: .x86_32, queues: 4, ringPages: 16)
    options.queue = FrontQueueOptions(slots: 8, segments: 64)
    let disk = try frontend.connect(options)
    #expect(
        disk
            == FrontendDisk(
                capacity: Sector(2048), sectorSize: 512, isReadOnly: true, offersFlush: true, offersBarrier: false,
                offersDiscard: false, offersPersistent: false, indirectSegments: 64))
    #expect(frontend.queues.count == 2)
    #expect(try world.read(world.disk.frontendPath.appending("state")) == "4")
    world.backend = [World.writes("state", "5"), World.writes("state", "6")]
    try frontend.close()
    #expect(frontend.queues.isEmpty)
    #expect(try world.read(world.disk.frontendPath.appending("state")) == "6")
}

@Test func keysOfASingleRingAreFlat() {
    let ring = PublishedRing(references: [GrantReference(9)], port: EventPort(3))
    let keys = BlockFrontend.keys(FrontendOptions(offersPersistent: true), [ring], pages: 1)
    #expect(
        keys.map { "\($0)=\($1)" } == ["ring-ref=9", "event-channel=3", "protocol=x86_64-abi", "feature-persistent=1"])
}

@Test func aFrontendFollowsItsBackendsClosing() throws {
    let world = try World()
    try world.toolstack.add(world.disk)
    try world.dom0.write(world.back.appending("state"), "4")
    let frontend = try world.frontend()
    #expect(try !frontend.serveClosing())
    try world.dom0.write(world.back.appending("state"), "5")
    #expect(try frontend.serveClosing())
    #expect(try world.read(world.disk.frontendPath.appending("state")) == "6")
}
