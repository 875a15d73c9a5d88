import CXen
import Descriptors
import Foundation
import Loopback
import SharedRing
import Testing
import XenWire
import Xenstore

/// A loopback world in a directory of its own: hypervisor and xenstore in this process, the daemon as a child.
final class World {
    let directory: String
    let hypervisor: HypervisorServer
    let xenstored: XenstoreServer
    let toolstack: XenstoreClient
    let guest: GuestDomain
    static let domain = DomainID(5)

    init(pages: UInt32 = 256, references: UInt32 = 256) throws {
        var template = Array("/tmp/xen-daemon-XXXXXX".utf8CString)
        directory = try unsafe String(cString: #require(mkdtemp(&template)))
        hypervisor = try HypervisorServer(directory: directory)
        try hypervisor.start()
        xenstored = try XenstoreServer(directory: directory)
        toolstack = try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: DomainID(0)))
        guest = try hypervisor.createDomain(Self.domain, pages: pages, references: references)
    }

    /// A domain's own connection to xenstore.
    func client(_ domain: UInt16) throws -> XenstoreClient {
        try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: DomainID(domain)))
    }

    deinit {
        xenstored.stop()
        hypervisor.stop()
        try? FileManager.default.removeItem(atPath: directory)
    }

    // MARK: the daemon

    static var daemonPath: String {
        let executable = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return (executable as NSString).deletingLastPathComponent + "/xen-blkbackd"
    }

    func startDaemon(_ more: [String] = []) throws -> ChildProcess {
        try ChildProcess(
            Self.daemonPath,
            ["--domid", "5", "--xen", "loopback:\(directory)", "--log-level", "critical"] + more)
    }

    /// A file of `sectors` sectors, each filled with its own number's last byte.
    func makeVolume(sectors: Int) throws -> String {
        let path = directory + "/volume"
        let bytes = (0..<sectors).flatMap { [UInt8](repeating: UInt8(truncatingIfNeeded: $0), count: 512) }
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        return path
    }

    // MARK: the toolstack

    static func back(_ name: String, _ number: Int = 51712) -> String {
        "/local/domain/0/backend/vbd/5/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }
    static func front(_ name: String, _ number: Int = 51712) -> String {
        "/local/domain/5/device/vbd/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }

    func write(_ nodes: [String: String]) throws {
        guard !nodes.isEmpty else { return }
        try toolstack.transaction { store throws(XenstoreError) in
            for (path, value) in nodes.sorted(by: { $0.key < $1.key }) { try store.write(XenstorePath(path), value) }
        }
    }
    func read(_ path: String) throws -> String? { try toolstack.read(XenstorePath(path))?.text }
    func remove(_ path: String) throws { try toolstack.remove(XenstorePath(path)) }

    /// Creates a disk as libxl does: all nodes in one transaction.
    func createDisk(_ volume: String, mode: String = "w", _ number: Int = 51712) throws {
        try write([
            Self.back("frontend", number): Self.front("", number), Self.back("frontend-id", number): "5",
            Self.back("online", number): "1", Self.back("state", number): "1", Self.back("mode", number): mode,
            Self.back("device-type", number): "disk", Self.back("removable", number): "0",
            Self.back("script", number): "/etc/xen/scripts/block", Self.back("params", number): volume,
            Self.back("discard-enable", number): "1",
            Self.front("backend", number): Self.back("", number), Self.front("backend-id", number): "0",
            Self.front("state", number): "1",
        ])
    }

    /// What the script does when state 2 was reached.
    func plugIn(_ volume: String, _ number: Int = 51712) throws {
        try write([
            Self.back("physical-device-path", number): volume, Self.back("hotplug-status", number): "connected",
        ])
    }

    /// A disk and a frontend, both Connected.
    func connect(_ volume: String, mode: String = "w", _ more: [String: String] = [:]) throws -> Frontend {
        try createDisk(volume, mode: mode)
        try write(more)
        try plugIn(volume)
        let frontend = try Frontend(self)
        try frontend.publish()
        #expect(try waitForState("4"))
        try write([World.front("state"): "4"])
        return frontend
    }

    /// Waits for a minute: how long libxl would have waited is not measured beside hundreds of other tests.
    func eventually(seconds: Int = 60, _ condition: () throws -> Bool) throws -> Bool {
        for _ in 0..<seconds * 100 {
            if try condition() { return true }
            usleep(10_000)
        }
        return false
    }
    func wait(_ path: String, _ value: String?) throws -> Bool { try eventually { try read(path) == value } }

    /// The daemon's status file.
    var status: String? {
        get throws { try? String(contentsOfFile: directory + "/state/vbd-5.status", encoding: .utf8) }
    }
    func waitForState(_ state: String, _ number: Int = 51712) throws -> Bool {
        try wait(Self.back("state", number), state)
    }
}

/// A frontend with one ring of one page and one page of data, in the native layout.
/// The pages live as long as the domain, and the domain as long as `world`.
@safe struct Frontend: ~Copyable {
    private let world: World
    private var ring: FrontRing
    fileprivate let port: GuestPort
    fileprivate let page: UnsafeMutableRawPointer
    private let data: UnsafeMutableRawPointer
    private let ringReference: UInt32
    private let dataReference: UInt32
    let dataFrame: UInt32
    private var identifier: UInt64 = 0

    init(_ world: World) throws {
        let guest = world.guest
        let frame = try guest.allocateFrames(2)
        let reference = try guest.allocateReferences(2)
        let ringPage = try unsafe #require(guest.memory(ofFrame: frame))
        let dataPage = try unsafe #require(guest.memory(ofFrame: frame + 1))
        let port = try guest.openPort(for: DomainID(0))
        for page in 0..<UInt32(2) {
            guest.grants.grant(reference + page, frame: frame + page, to: DomainID(0), readOnly: false)
        }
        self.world = world
        self.port = port
        ringReference = reference
        dataReference = reference + 1
        dataFrame = frame + 1
        unsafe (page, data) = (ringPage, dataPage)
        ring = unsafe FrontRing(
            initialising: ringPage, entries: BlockABI.native.entries(pages: 1), entrySize: BlockABI.native.entrySize)
    }

    /// What blkfront writes before it goes to state 3.
    func publish(_ more: [String: String] = [:]) throws {
        var nodes = [
            World.front("protocol"): "x86_64-abi", World.front("ring-ref"): "\(ringReference)",
            World.front("event-channel"): "\(port.number)", World.front("state"): "3",
        ]
        nodes.merge(more) { _, new in new }
        try world.write(nodes)
    }

    /// A ring of two pages, for `publish`. The data's page is the second one: fewer than 32 requests leave it alone.
    var twoPages: [String: String] {
        [
            World.front("ring-page-order"): "1", World.front("ring-ref0"): "\(ringReference)",
            World.front("ring-ref1"): "\(dataReference)",
        ]
    }
    var onePage: [String: String] {
        [World.front("ring-page-order"): "0", World.front("ring-ref0"): "\(ringReference)"]
    }

    /// One request of whole sectors on the data page; the response's status, or nil if none came within so many seconds.
    mutating func request(
        _ operation: UInt8, sector: UInt64, sectors: UInt8 = 8, patience: Int = 60
    ) -> Int16? {
        var request = [UInt8](repeating: 0, count: 112)
        identifier += 1
        request[0] = operation
        request[1] = operation == 3 ? 0 : 1
        request.replaceSubrange(8..<16, with: Self.bytes(identifier))
        request.replaceSubrange(16..<24, with: Self.bytes(sector))
        request.replaceSubrange(24..<28, with: Self.bytes(dataReference))
        request[29] = sectors - 1
        // The request has 112 bytes, the slot lies in the ring.
        unsafe BlockABI.native.putRequest(request, into: ring.requestSlot())
        if ring.publish() { port.channel.notify() }
        return awaitResponse(seconds: patience)
    }

    private static func bytes(_ number: some FixedWidthInteger) -> [UInt8] {
        (0..<number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) }
    }

    mutating func awaitResponse(seconds: Int = 60) -> Int16? {
        for _ in 0..<seconds * 1000 {
            if let waiting = ring.waiting(), waiting > 0 {
                let slot = unsafe ring.takeSlot()
                let matches = unsafe slot.load(as: UInt64.self) == identifier
                return matches ? unsafe slot.load(fromByteOffset: 10, as: Int16.self) : nil
            }
            usleep(1000)
        }
        return nil
    }

    /// The first byte of each sector of the data page.
    var firstBytes: [UInt8] { (0..<8).map { unsafe data.load(fromByteOffset: $0 * 512, as: UInt8.self) } }
    func fill(_ byte: UInt8) { unsafe data.initializeMemory(as: UInt8.self, repeating: byte, count: 4096) }
}

extension Frontend {
    /// A producer index that no ring of this size can have.
    func claim(requests: UInt32) {
        unsafe page.storeBytes(of: requests, as: UInt32.self)
        port.channel.notify()
    }
}
