internal import CLinux
internal import Descriptors
internal import Glibc
public import XenWire
public import Xenstore

/// A world without Xen in a directory of its own: model hypervisor, xenstore, toolstack, and a daemon as a child.
public final class LoopbackWorld {
    /// Where the sockets and the daemon's state are; removed by `end`.
    public let directory: String
    public let hypervisor: HypervisorServer
    public let toolstack: Toolstack
    private let store: XenstoreServer
    /// The daemon, once it was started.
    public private(set) var daemon: ChildProcess?

    /// - Parameters:
    ///   - temporary: the directory in which the world's own is made.
    ///   - meanwhile: called a few times a second while the toolstack waits.
    public init(in temporary: String, meanwhile: @escaping () -> Void) throws(LoopbackError) {
        let directory = try host { () throws(Fault) in try Self.makeDirectory(in: temporary) }
        self.directory = directory
        (hypervisor, store) = try host { () throws(Fault) in
            (try HypervisorServer(directory: directory), try XenstoreServer(directory: directory))
        }
        toolstack = try Loopback.xenstore { () throws(XenstoreError) in
            Toolstack(
                try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: DomainID(0))),
                .polling(meanwhile: meanwhile))
        }
        try host { [hypervisor] () throws(Fault) in try hypervisor.start() }
    }

    private static func makeDirectory(in temporary: String) throws(Fault) -> String {
        var template = Array("\(temporary)/xen-loopback.XXXXXX".utf8CString)
        // mkdtemp writes within the template's own bytes.
        guard unsafe mkdtemp(&template) != nil else { throw Fault("make a directory in \(temporary)", errno: errno) }
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A domain with memory, xenstore connection and toolstack entries.
    public func createDomain(
        _ domain: DomainID, pages: UInt32, references: UInt32
    ) throws(LoopbackError) -> (GuestDomain, XenstoreClient) {
        let guest = try host { () throws(Fault) in
            try hypervisor.createDomain(domain, pages: pages, references: references)
        }
        try toolstack.createDomain(domain)
        let client = try Loopback.xenstore { () throws(XenstoreError) in
            try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: domain))
        }
        return (guest, client)
    }

    /// Starts the daemon for a domain. The thread that calls this must outlive it.
    public func startDaemon(
        _ path: String, for domain: DomainID, _ options: [String], processor: Int32?
    ) throws(LoopbackError) {
        daemon = try host { () throws(Fault) in
            try ChildProcess(
                path, ["--domid", "\(domain)", "--xen", "loopback:\(directory)"] + options, processor: processor)
        }
    }

    /// Waits for the daemon to end by itself, as it does when its last device is gone.
    public func awaitDaemon(milliseconds: Int) -> ChildProcess.End? {
        for _ in 0..<milliseconds / 5 {
            if let end = daemon?.ended { return end }
            usleep(5000)
        }
        return daemon?.ended
    }

    /// Ends the daemon, if it has not ended, and the servers, and removes the directory.
    public func end() {
        daemon?.kill()
        _ = daemon?.wait()
        hypervisor.stop()
        store.stop()
        // Only reads the path; what cannot be removed stays.
        unsafe _ = linux_remove_tree(directory)
    }
}
