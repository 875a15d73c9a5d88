internal import CLinux
internal import Descriptors
internal import XenWire
internal import Xenstore

/// An interface that a daemon serves to one guest, from its creation to its removal.
final class ServedInterface {
    let interface: InterfaceDescription
    let guest: GuestDomain
    private let world: LoopbackWorld
    private let frontend: NetFrontend

    /// Starts the daemon in the calling thread's network, creates the interface and sets it up, as a script would.
    init(
        _ interface: InterfaceDescription, _ setting: RunSetting, pages: UInt32
    ) throws(LoopbackError) {
        self.interface = interface
        world = try LoopbackWorld(in: setting.temporary) {}
        do throws(LoopbackError) {
            let client: XenstoreClient
            (guest, client) = try world.createDomain(
                interface.domain, pages: pages + pages / 512 + 16, references: pages)
            try world.startDaemon(
                setting.daemon, for: interface.domain, ["--log-level", "warning"],
                processor: setting.processors?.backend, keepsDescriptors: true)
            try world.toolstack.add(interface)
            try world.toolstack.awaitBackend(of: interface)
            try host { () throws(Fault) in try Self.setUp(interface.hostName) }
            try world.toolstack.hotplug(interface)
            let path = try Loopback.xenstore { () throws(XenstoreError) in try interface.frontendPath }
            frontend = try NetFrontend(client, at: path, .polling())
            try frontend.awaitOffer()
        } catch {
            let reason = world.explained(error)
            world.end()
            throw reason
        }
    }

    private static func setUp(_ name: String) throws(Fault) {
        // Only reads the name.
        let index = unsafe linux_interface_index(name)
        try NetworkNamespace.check(index, "find interface \(name)")
        try NetworkNamespace.check(linux_interface_set_up(index, 1), "set \(name) up")
    }

    /// Of all daemons so far.
    var processorNanoseconds: UInt64 { UInt64(clamping: world.daemonNanoseconds) }
    var daemonProcess: Int32 { world.daemon?.identifier ?? 0 }

    /// Connects the guest's queues.
    func connect(_ queues: [PublishedQueue]) throws(LoopbackError) {
        let most = try frontend.maximumQueues()
        guard queues.count <= most else { throw .notOffered("--queues \(queues.count): the backend offers \(most)") }
        try frontend.connect(queues)
    }

    /// Kills the daemon if it is time, and waits for its successor's first response.
    func kill(_ series: inout KillSeries, progress: () -> UInt64?) throws(LoopbackError) {
        try series.go(world, progress: progress)
    }

    /// Detaches the interface as a toolstack does; the daemon has nothing left to do and ends.
    func detach() throws(LoopbackError) {
        try frontend.close()
        try world.toolstack.remove(interface)
        try world.toolstack.destroyDomain(interface.domain)
        guard world.awaitDaemon(milliseconds: 10_000) == .exited(0) else {
            throw .notOffered("the daemon did not end well within 10 s after its last interface was gone")
        }
    }

    func explained(_ error: LoopbackError) -> LoopbackError { world.explained(error) }
    func end() { world.end() }
}
