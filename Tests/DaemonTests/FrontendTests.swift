import Descriptors
import Foundation
import Loopback
import SharedRing
import Testing
import XenWire
import Xenstore

/// The daemon under the loopback world's own toolstack and blkfront, which refuse whatever libxl and Linux refuse.
@Suite(.serialized)
struct FrontendTests {
    /// One way for a frontend to connect.
    struct Shape: Sendable, CustomTestStringConvertible {
        var abi = BlockABI.native
        var queues = 1
        var pages: UInt32 = 1
        var segments: UInt16 = 11
        var testDescription: String { "\(abi), \(queues) queues of \(pages) pages, \(segments) segments" }
    }

    static let shapes: [Shape] = [
        Shape(), Shape(abi: .x86_32), Shape(queues: 2), Shape(abi: .x86_32, queues: 8), Shape(pages: 2),
        Shape(pages: 16), Shape(segments: 256), Shape(abi: .x86_32, queues: 4, pages: 4, segments: 64),
        Shape(queues: 8, pages: 16, segments: 32),
    ]

    /// A disk that was attached and its frontend, connected.
    private struct Attached {
        let world: World
        let toolstack: Toolstack
        let disk: Loopback.DiskDescription
        let frontend: BlockFrontend
        let described: FrontendDisk
        let options: FrontendOptions
        let daemon: ChildProcess

        init(_ world: World, _ volume: String, _ shape: Shape, readOnly: Bool = false) throws {
            self.world = world
            daemon = try world.startDaemon()
            toolstack = try Toolstack(world.client(0))
            disk = Loopback.DiskDescription(domain: World.domain, volume: volume, isReadOnly: readOnly)
            try toolstack.createDomain(World.domain)
            try toolstack.attach(disk)
            frontend = try BlockFrontend(world.guest, world.client(5), at: disk.frontendPath)
            options = FrontendOptions(
                abi: shape.abi, queues: shape.queues, ringPages: shape.pages,
                queue: FrontQueueOptions(slots: 8, segments: shape.segments))
            described = try frontend.connect(options)
        }

        /// Fills requests of the greatest size with `byte`, or checks that they hold it, over the whole disk.
        func pass(_ operation: XenWire.BlockOperation, _ byte: UInt8) throws {
            let unit = UInt64(min(options.queue.segments, described.maximumSegments)) * 8
            for (index, start) in stride(from: 0, to: described.capacity.rawValue, by: Int(unit)).enumerated() {
                let sectors = UInt32(min(unit, described.capacity.rawValue - start))
                try frontend.queues[index % frontend.queues.count].withQueue { queue in
                    try Self.transfer(&queue, operation, start, sectors, byte)
                }
            }
        }

        private static func transfer(
            _ queue: inout FrontQueue, _ operation: XenWire.BlockOperation, _ sector: UInt64, _ sectors: UInt32,
            _ byte: UInt8
        ) throws {
            guard let slot = queue.takeSlot() else { throw LoopbackError.notOffered("a slot") }
            // The buffer has room for the largest request.
            let buffer = unsafe UnsafeMutableRawBufferPointer(start: queue.buffer(slot), count: Int(sectors) * 512)
            unsafe buffer.initializeMemory(as: UInt8.self, repeating: operation == .write ? byte : 0)
            queue.submit(slot, operation, sector: sector, sectors: sectors, at: 0)
            queue.publish()
            var patience = 120_000
            while try queue.reap() == 0, patience > 0 {
                usleep(500)
                patience -= 1
            }
            #expect(patience > 0, "no answer")
            #expect(queue.completion(0).status == .okay)
            if operation == .read { #expect(unsafe buffer.allSatisfy { $0 == byte }) }
        }
    }

    @Test(arguments: shapes)
    func `every shape of connection carries data`(_ shape: Shape) throws {
        let world = try World(pages: 16_384, references: 16_384)
        let attached = try Attached(world, world.makeVolume(sectors: 4096), shape)
        #expect(attached.frontend.queues.count == shape.queues)
        #expect(attached.described.capacity.rawValue == 4096)
        try attached.pass(.write, 0xC3)
        try attached.pass(.read, 0xC3)
        let stored = try Data(contentsOf: URL(fileURLWithPath: world.directory + "/volume"))
        #expect(stored.count == 4096 * 512 && stored.allSatisfy { $0 == 0xC3 })
        attached.daemon.kill()
    }

    @Test func `a guest closes and comes back in another shape each time`() throws {
        let world = try World(pages: 16_384, references: 16_384)
        let attached = try Attached(world, world.makeVolume(sectors: 512), Shape())
        for (round, shape) in Self.shapes.prefix(5).enumerated() {
            try attached.frontend.close()
            #expect(world.hypervisor.mappedPages(of: World.domain) == 0)
            // A frontend with another shape removes what it does not write again.
            for key in ["ring-page-order", "multi-queue-num-queues"] { try world.remove(World.front(key)) }
            try attached.frontend.reopen()
            _ = try attached.frontend.connect(
                FrontendOptions(
                    abi: shape.abi, queues: shape.queues, ringPages: shape.pages,
                    queue: FrontQueueOptions(slots: 8, segments: 11)))
            try attached.pass(.write, UInt8(round))
            try attached.pass(.read, UInt8(round))
        }
        attached.daemon.kill()
    }

    @Test func `block-detach: the guest closes, the device goes, the daemon ends`() throws {
        let world = try World(pages: 16_384, references: 16_384)
        let attached = try Attached(world, world.makeVolume(sectors: 512), Shape(queues: 2))
        try attached.pass(.write, 1)
        // While the toolstack waits, the guest sees that it is to close.
        let toolstack = try Toolstack(
            world.client(0), .polling { [frontend = attached.frontend] in _ = try? frontend.serveClosing() })
        #expect(try toolstack.remove(attached.disk))
        try attached.frontend.release()
        #expect(attached.daemon.wait() == .exited(0))
        #expect(try world.read(World.back("")) == nil)
    }

    @Test func `destroy: nobody asks the guest, and nothing of it stays mapped`() throws {
        let world = try World(pages: 16_384, references: 16_384)
        let attached = try Attached(world, world.makeVolume(sectors: 512), Shape(queues: 2))
        #expect(try attached.toolstack.remove(attached.disk, .forced), "the backend must close by itself")
        #expect(attached.daemon.wait() == .exited(0))
        #expect(world.hypervisor.mappedPages(of: World.domain) == 0)
        try attached.frontend.release()
    }

    @Test func `a resize is seen while the disk is in use`() throws {
        let world = try World(pages: 16_384, references: 16_384)
        let attached = try Attached(world, world.makeVolume(sectors: 512), Shape())
        try attached.toolstack.resize(attached.disk, toBytes: 1024 * 512)
        #expect(try attached.frontend.capacity().rawValue == 1024)
        attached.daemon.kill()
    }
}
