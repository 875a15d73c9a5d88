internal import Descriptors
internal import XenWire
internal import Xenstore

/// A file that a daemon serves to one guest, from its creation to its removal.
public final class ServedDisk {
    /// What the guest sees.
    public let disk: FrontendDisk
    private let world: LoopbackWorld
    private let frontend: BlockFrontend
    private let description: DiskDescription

    private static let domain = DomainID(1)
    /// Requests in flight, and segments of 4,096 bytes of each: what a ring of one page takes, in one guest's memory.
    private static let slots: UInt16 = 16
    private static let segments: UInt16 = 32

    /// Starts the daemon, and attaches and connects the disk. It is served through the page cache.
    ///
    /// - Parameter temporary: where a directory for the world can be made.
    public init(_ volume: String, daemon: String, temporary: String) throws(LoopbackError) {
        world = try LoopbackWorld(in: temporary) {}
        description = DiskDescription(domain: Self.domain, volume: volume, isReadOnly: true)
        do throws(LoopbackError) {
            let pages = (UInt32(Self.segments) + 2) * UInt32(Self.slots) + 1024
            let (guest, client) = try world.createDomain(Self.domain, pages: pages, references: pages)
            try world.startDaemon(
                daemon, for: Self.domain, ["--direct", "0", "--log-level", "warning"], processor: nil)
            try world.toolstack.attach(description)
            let path = try Loopback.xenstore { [description] () throws(XenstoreError) in try description.frontendPath }
            frontend = try BlockFrontend(guest, client, at: path)
            disk = try frontend.connect(
                FrontendOptions(queue: FrontQueueOptions(slots: Self.slots, segments: Self.segments)))
        } catch {
            let reason = world.explained(error)
            world.end()
            throw reason
        }
    }

    /// The daemon's process.
    public var daemonProcess: Int32 { world.daemon?.identifier ?? 0 }

    /// Compares the whole disk with a file; sectors that were compared.
    public func check(against path: String, isOver: () -> Bool) throws(DiskCheckError) -> UInt64 {
        guard let queue = frontend.queues.first else { return 0 }
        var check = try DiskCheck(path, capacity: disk.capacity, segments: min(Self.segments, disk.maximumSegments))
        try queue.withQueue { queue throws(DiskCheckError) in
            try check.run(on: &queue) { () throws(DiskCheckError) in
                guard world.daemon?.ended == nil else { throw .backendGone }
                return isOver()
            }
        }
        return check.comparedSectors
    }

    /// Detaches the disk as a toolstack does; the daemon has nothing left to do and ends.
    public func detach() throws(LoopbackError) {
        try frontend.close()
        try world.toolstack.remove(description)
        try world.toolstack.destroyDomain(Self.domain)
        guard world.awaitDaemon(milliseconds: 10_000) == .exited(0) else {
            throw .notOffered("the daemon did not end well within 10 s after its last disk was gone")
        }
    }

    deinit {
        world.end()
    }
}
