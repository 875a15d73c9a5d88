internal import CLinux
public import Descriptors
internal import Glibc
public import XenWire
public import Xenstore

/// A world without Xen in a directory of its own: model hypervisor, xenstore, toolstack, and a daemon as a child.
public final class LoopbackWorld {
    /// Where the sockets and the daemon's state are; removed with the world, after `end`.
    public var directory: String { scratch.path }
    private let scratch: ScratchDirectory
    public let hypervisor: HypervisorServer
    public let toolstack: Toolstack
    private let store: XenstoreServer
    /// The daemon, once it was started.
    public private(set) var daemon: ChildProcess?
    private var daemonPath = ""
    private var statusPath = ""
    private var startAgain: (() throws(Fault) -> ChildProcess)?
    private var keeper: DescriptorKeeper?
    /// Processor time of daemons that were killed.
    private var spentNanoseconds = 0

    /// - Parameters:
    ///   - temporary: the directory in which the world's own is made.
    ///   - meanwhile: called a few times a second while the toolstack waits.
    public init(in temporary: String, meanwhile: @escaping () -> Void) throws(LoopbackError) {
        let scratch = try host { () throws(Fault) in try ScratchDirectory(in: temporary) }
        self.scratch = scratch
        let directory = scratch.path
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
    ///
    /// - Parameter keepsDescriptors: it is started as by a service manager that keeps open for the next process what this one
    ///   leaves with it.
    public func startDaemon(
        _ path: String, for domain: DomainID, _ options: [String], processor: Int32?, keepsDescriptors: Bool = false
    ) throws(LoopbackError) {
        daemonPath = path
        statusPath = "\(directory)/state/vbd-\(domain).status"
        if keepsDescriptors {
            keeper = try host { [directory] () throws(Fault) in try DescriptorKeeper(in: directory) }
        }
        startAgain = { [directory, keeper] () throws(Fault) in
            try ChildProcess(
                path, ["--domid", "\(domain)", "--xen", "loopback:\(directory)"] + options, processor: processor,
                store: keeper?.store)
        }
        try startDaemonAgain()
    }

    /// Another process of the same daemon, after the last has ended.
    public func startDaemonAgain() throws(LoopbackError) {
        guard let startAgain else { return }
        daemon = try host(startAgain)
    }

    /// SIGKILL; returns when the process is gone.
    public func killDaemon() throws(LoopbackError) {
        guard let daemon else { return }
        guard daemon.ended == nil else { throw explained(.notOffered("the daemon has ended")) }
        spentNanoseconds += daemon.processorNanoseconds ?? 0
        daemon.kill()
        _ = daemon.wait()
    }

    /// Nanoseconds for which the block daemon that runs now has waited until its predecessor's I/O was over, as its status
    /// file says once it has; nil if it does not say so soon, or is none.
    func fenceWait() -> UInt64? {
        guard let daemon else { return nil }
        let status = statusPath
        for _ in 0..<100 where unsafe access(status, F_OK) == 0 {
            if let wait = Self.fenceWait(status, daemon.identifier) { return wait }
            usleep(500)
        }
        return nil
    }

    private static func fenceWait(_ status: String, _ process: Int32) -> UInt64? {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file(status, &buffer, buffer.count)
        let text = String(decoding: buffer.prefix(max(0, got)), as: UTF8.self)
        guard text.hasPrefix("{\"process\":\(process),") else { return nil }
        return text.split(separator: "\"fence_wait_ns\":").dropFirst().first.flatMap {
            UInt64($0.prefix { $0.isNumber })
        }
    }

    /// Processor time of all daemons so far.
    public var daemonNanoseconds: Int { spentNanoseconds + (daemon?.processorNanoseconds ?? 0) }

    /// A daemon that has ended is the reason for whatever else failed.
    func explained(_ error: LoopbackError) -> LoopbackError {
        switch daemon?.ended {
        case .exited(let code)? where code != 0: .notOffered("\(daemonPath) ended with status \(code): \(error)")
        case .killed(let signal)?: .notOffered("\(daemonPath) was killed by signal \(signal): \(error)")
        default: error
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

    /// Ends the daemon, if it has not ended, and the servers.
    public func end() {
        daemon?.kill()
        _ = daemon?.wait()
        keeper?.stop()
        hypervisor.stop()
        store.stop()
    }
}
