import Descriptors
import Logging
import Loopback
import Testing
import XenWire
import Xenbus
import Xenstore

/// A device that notes what it is asked to do.
private final class RecordingDevice: SplitDevice {
    let identity: DeviceIdentity
    var calls: [String] = []
    var refusal: DeviceFailure?
    var news: [DeviceNews] = []
    var recordedFailure: String?

    init(_ identity: DeviceIdentity) { self.identity = identity }

    var backendKeys = ["mode"]
    /// How often the device was looked at while its frontend was ready.
    var looks = 0
    var frontendKeys: [String] {
        looks += 1
        return ["protocol", "count"]
    }
    func frontendKeys(after known: NodeValues) -> [String] { known["count"] == nil ? [] : ["ring-ref0", "ring-ref1"] }
    var transportKeys = [PublishedKey("max-queues", 8)]
    var liveFrontendKeys: [String] = []
    var liveBackendKeys: [String] { liveFrontendKeys.isEmpty ? [] : ["rate"] }
    var updateRefusal: DeviceFailure?
    private(set) var adoptedKeys: NodeValues = [:]

    func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        calls.append("connect \(frontend.keys.sorted()) \(backend.keys.sorted())")
        if let refusal { throw refusal }
        return [PublishedKey("sectors", 2048)]
    }
    func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey] {
        calls.append("adopt")
        adoptedKeys = frontend
        if let refusal { throw refusal }
        return [PublishedKey("sectors", 2048)]
    }
    func update(_ keys: LiveKeys) throws(DeviceFailure) {
        let all = keys.frontend.merging(keys.backend) { $1 }.sorted { $0.key < $1.key }
        calls.append("update " + all.map { "\($0.key)=\($0.value)" }.joined(separator: " "))
        if let updateRefusal { throw updateRefusal }
    }
    func suspend() { calls.append("suspend") }
    func disconnect() { calls.append("disconnect") }
    func closeVolume() { calls.append("close") }
    var isPeerAlive = true
    let attention: Int32 = -1
    func attend() -> [DeviceNews] {
        defer { news = [] }
        return news
    }
    func forgetFailure() { recordedFailure = nil }
    func discard() { calls.append("discard") }
}

/// Counts how often the client waits for the server: once for all requests that it sends together.
private final class CountingTransport: XenstoreTransport {
    private let inner: any XenstoreTransport
    private(set) var writes = 0

    init(_ inner: any XenstoreTransport) { self.inner = inner }

    var descriptor: Int32 { inner.descriptor }
    var maximumPayload: Int { inner.maximumPayload }
    func read(atMost count: Int) throws(Fault) -> [UInt8]? { try inner.read(atMost: count) }
    func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int {
        writes += 1
        return try inner.write(bytes)
    }
    func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool {
        try inner.wait(writing: writing, milliseconds: milliseconds)
    }
}

/// A driver on the model's xenstore, with a toolstack and a guest that write nodes.
private final class World {
    let store = InProcessXenstore()
    let toolstack: XenstoreClient
    let driver: XenbusDriver
    private let client: XenstoreClient
    private let transport: CountingTransport
    private let made: Made
    private final class Made {
        var devices: [UInt32: RecordingDevice] = [:]; var failure: String?; var refusal: DeviceFailure?
        var holder: String?
        var liveKeys: [String] = []
        var backendKeys = ["mode"]
    }

    init(failure: String? = nil, liveKeys: [String] = []) throws {
        let store = store
        toolstack = try XenstoreClient { store.connect(DomainID(0)) }
        let transport = CountingTransport(store.connect(DomainID(0)))
        self.transport = transport
        client = try XenstoreClient { transport }
        let made = Made()
        made.failure = failure
        made.liveKeys = liveKeys
        self.made = made
        let deviceClass = DeviceClass(
            backendType: "vbd", frontendType: "vbd", backend: DomainID(0), frontend: DomainID(7))
        driver = try XenbusDriver(
            client, [deviceClass],
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, holder: { _ in made.holder }
        ) { identity in
            let device = RecordingDevice(identity)
            device.recordedFailure = made.failure
            device.liveFrontendKeys = made.liveKeys
            device.refusal = made.refusal
            device.backendKeys = made.backendKeys
            made.devices[identity.number] = device
            return device
        }
    }

    /// How often the driver has waited for the server.
    var waits: Int { transport.writes }

    func refuse(_ failure: DeviceFailure) { made.refusal = failure }
    /// Of devices that appear from now on.
    func setKeys(_ keys: [String]) { made.backendKeys = keys }
    func setHolder(_ holder: String?) { made.holder = holder }
    func device(_ number: UInt32 = 51712) throws -> RecordingDevice { try #require(made.devices[number]) }

    static func back(_ name: String, _ number: UInt32 = 51712) -> String {
        "/local/domain/0/backend/vbd/7/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }
    static func front(_ name: String, _ number: UInt32 = 51712) -> String {
        "/local/domain/7/device/vbd/\(number)" + (name.isEmpty ? "" : "/\(name)")
    }

    /// Lets the driver see and do what there is.
    func settle() throws {
        try client.processReadable()
        try driver.process()
    }

    func write(_ path: String, _ value: String) throws {
        try toolstack.write(XenstorePath(path), value)
        try settle()
    }
    func remove(_ path: String) throws {
        try toolstack.remove(XenstorePath(path))
        try settle()
    }
    func read(_ path: String) throws -> String? { try toolstack.read(XenstorePath(path))?.text }
    func state(_ number: UInt32 = 51712) throws -> String? { try read(Self.back("state", number)) }

    /// As libxl creates a disk: everything in one transaction.
    func create(_ number: UInt32 = 51712, own: String = "1", frontend: String = "1", _ more: [String: String] = [:])
        throws
    {
        var nodes = [
            Self.back("frontend", number): Self.front("", number), Self.back("frontend-id", number): "7",
            Self.back("online", number): "1", Self.back("state", number): own, Self.back("mode", number): "w",
            Self.back("script", number): "/etc/xen/scripts/block", Self.front("state", number): frontend,
        ]
        nodes.merge(more) { _, new in new }
        try toolstack.transaction { store throws(XenstoreError) in
            for (path, value) in nodes.sorted(by: { $0.key < $1.key }) { try store.write(XenstorePath(path), value) }
        }
        try settle()
    }

    /// Creates a device and brings it to state 4.
    func connect(_ number: UInt32 = 51712) throws {
        try create(number)
        try write(Self.back("hotplug-status", number), "connected")
        try write(Self.front("protocol", number), "x86_64-abi")
        try write(Self.front("state", number), "3")
        try #require(try state(number) == "4")
        try device(number).calls = []
    }
}

struct DriverTests {
    @Test func `a device appears and comes to InitWait with its transport keys`() throws {
        let world = try World()
        try world.settle()
        #expect(world.driver.served.isEmpty && !world.driver.isFinished)
        try world.create()
        #expect(try world.state() == "2")
        #expect(try world.read(World.back("max-queues")) == "8")
        #expect(try world.read(World.back("sectors")) == nil)
    }

    @Test func `it connects when the script is done and the frontend ready, with all keys read`() throws {
        let world = try World()
        try world.create()
        try world.write(World.front("count"), "2")
        try world.write(World.front("ring-ref1"), "9")
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "2")
        try world.write(World.back("hotplug-status"), "connected")
        #expect(try world.state() == "4")
        #expect(try world.read(World.back("sectors")) == "2048")
        #expect(try world.device().calls == ["close", #"connect ["count", "ring-ref1"] ["mode"]"#])
    }

    /// Own state 2 or 4, and 4 of which the queues run already.
    @Test(arguments: ["2", "4", "served"])
    func `a connection for which xenstore does not answer is made when it does`(own: String) throws {
        let world = try World()
        // No server takes such a name.
        let unreadable = [String(repeating: "x", count: 5000)]
        let isServed = own == "served"
        if !isServed { world.setKeys(unreadable) }
        try world.create(
            own: own == "2" ? "2" : "4", frontend: own == "2" ? "3" : "4", [World.back("hotplug-status"): "connected"])
        if isServed {
            #expect(try world.device().calls == ["adopt"])
            try world.device().backendKeys = unreadable
            try world.write(World.front("count"), "2")
            try world.write(World.front("state"), "3")
            #expect(try world.device().calls == ["adopt", "suspend"])
        }
        #expect(!world.driver.served[0].state.isConnected)
        try world.device().backendKeys = ["mode"]
        for _ in 0..<3 { try world.settle() }
        #expect(try world.device().calls.last?.hasPrefix(own == "2" ? "connect" : "adopt") == true)
        #expect(world.driver.served[0].state.isConnected)
        #expect(try world.state() == "4")
    }

    @Test func `a connection that cannot be made just now is tried again, and nothing is written meanwhile`() throws {
        let world = try World()
        try world.create()
        try world.device().refusal = DeviceFailure("the volume is away", .attempt)
        try world.write(World.back("hotplug-status"), "connected")
        try world.write(World.front("state"), "3")
        let tried = try world.device().calls.count
        #expect(tried < 5, "not without a pause")
        for _ in 0..<3 { try world.settle() }
        #expect(try world.device().calls.count == tried + 3)
        #expect(try world.state() == "2")
        #expect(try world.read(World.back("error")) == nil)
        try world.device().refusal = nil
        try world.settle()
        #expect(try world.state() == "4")
        #expect(try world.read(World.back("sectors")) == "2048")
    }

    @Test func `live keys are told after the connection, and whenever they change`() throws {
        let world = try World(liveKeys: ["wish", "headroom"])
        try world.create()
        try world.write(World.back("hotplug-status"), "connected")
        try world.write(World.front("wish"), "1")
        try world.write(World.front("state"), "4")
        #expect(try world.state() == "4")
        #expect(try world.device().calls.dropFirst() == [#"connect ["wish"] ["mode"]"#, "update wish=1"])
        try world.write(World.front("wish"), "0")
        try world.write(World.front("headroom"), "256")
        try world.write(World.front("headroom"), "256")
        #expect(try world.device().calls.dropFirst(3) == ["update wish=0", "update headroom=256 wish=0"])
        #expect(try world.state() == "4", "nothing else happens")
        try world.device().updateRefusal = DeviceFailure("wish: no")
        try world.write(World.front("wish"), "x")
        #expect(try world.state() == "5")
        #expect(try world.read(World.back("error")) == "wish: no")
    }

    /// As xen-netfront does for XDP: 7, wait for 8, 4; more than once.
    @Test func `a frontend is reconfigured without a new connection`() throws {
        let world = try World(liveKeys: ["headroom"])
        try world.connect()
        for headroom in ["256", "0"] {
            try world.write(World.front("headroom"), headroom)
            try world.write(World.front("state"), "7")
            #expect(try world.state() == "8")
            try world.write(World.front("state"), "4")
            #expect(try world.state() == "4")
        }
        #expect(try world.device().calls == ["update headroom=256", "update headroom=0"])
        try world.write(World.front("state"), "7")
        try world.write(World.front("state"), "5")
        #expect(try world.state() == "5")
    }

    @Test func `a device without live keys is not reconfigured`() throws {
        let world = try World()
        try world.connect()
        try world.write(World.front("state"), "7")
        #expect(try world.state() == "4")
        #expect(try world.device().calls == [])
    }

    @Test(arguments: [
        ("frontend", "/local/domain/7/device/vbd/1"), ("frontend", "/local/domain/8/device/vbd/51712"),
        ("frontend", ""), ("frontend-id", "8"), ("frontend-id", "07"),
    ])
    func `a frontend that is not the one of our path is refused`(_ key: String, _ value: String) throws {
        let world = try World()
        try world.create(51712, [World.back(key): value, World.back("hotplug-status"): "connected"])
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "5")
        #expect(try world.read(World.back("error"))?.hasPrefix("\(key) '\(value)': must be ") == true)
        #expect(try !world.device().calls.contains { $0.hasPrefix("connect") })
    }

    @Test func `a refused connection writes the error node and Closing, and is tried again after a full cycle`() throws
    {
        let world = try World()
        world.refuse(DeviceFailure("ring-page-order '40': must be 0...4"))
        try world.create(51712, [World.back("hotplug-status"): "connected"])
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "5")
        #expect(try world.read(World.back("error")) == "ring-page-order '40': must be 0...4")
        try world.device().refusal = nil
        try world.write(World.front("state"), "5")
        #expect(try world.state() == "5")
        try world.write(World.front("state"), "6")
        #expect(try world.state() == "6")
        try world.write(World.front("state"), "1")
        #expect(try world.state() == "2")
        #expect(try world.read(World.back("error")) == nil)
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "4")
    }

    @Test func `a frontend cycles as Windows does at boot`() throws {
        let world = try World()
        try world.connect()
        for _ in 0..<5 {
            for (frontend, own) in [("5", "5"), ("6", "6"), ("1", "2"), ("3", "4"), ("4", "4")] {
                try world.write(World.front("state"), frontend)
                #expect(try world.state() == own)
            }
        }
    }

    @Test func `hot-unplug without a frontend goes to 6, then the device is forgotten`() throws {
        let world = try World()
        try world.create()
        try world.toolstack.write(XenstorePath(World.back("online")), "0")
        try world.write(World.back("state"), "5")
        #expect(try world.state() == "6")
        try world.remove("/local/domain/0/backend/vbd/7")
        #expect(world.driver.served.isEmpty && world.driver.isFinished)
    }

    @Test func `surprise removal writes nothing back`() throws {
        let world = try World()
        try world.connect()
        try world.remove("/local/domain/0/backend/vbd/7")
        #expect(try world.device().calls == ["disconnect", "close", "discard"])
        #expect(try world.toolstack.directory(XenstorePath("/local/domain/0/backend/vbd")) == [])
        #expect(world.driver.isFinished)
    }

    @Test func `one of two devices goes, the other is served on`() throws {
        let world = try World()
        try world.connect(51712)
        try world.connect(51728)
        try world.remove(World.back("", 51712))
        #expect(world.driver.served.map(\.identity.number) == [51728] && !world.driver.isFinished)
        #expect(try world.device(51728).calls.isEmpty)
    }

    @Test func `a resized volume rewrites its keys and the state, and the guest's watch fires`() throws {
        let world = try World()
        try world.connect()
        let guest = try XenstoreClient { [store = world.store] in store.connect(DomainID(0)) }
        let watch = try guest.watch(XenstorePath(World.back("state")))
        _ = guest.pendingEvents()
        try world.device().news = [.changed([PublishedKey("sectors", 4096)])]
        try world.driver.attend()
        #expect(try world.read(World.back("sectors")) == "4096")
        #expect(try world.state() == "4")
        try guest.processReadable()
        #expect(guest.pendingEvents() == [watch])
    }

    @Test func `what a device waited for has come: its error is taken away, and an unplug meanwhile stays one`() throws
    {
        let world = try World()
        try world.connect()
        try world.write(World.back("error"), "not served on yet")
        // Not yet looked at.
        try world.toolstack.write(XenstorePath(World.back("state")), "5")
        try world.device().news = [.changed([PublishedKey("sectors", 4096)])]
        try world.driver.attend()
        #expect(try world.read(World.back("error")) == nil)
        #expect(try world.state() == "5")
    }

    @Test func `a device that failed closes; the others do not notice`() throws {
        let world = try World()
        try world.connect(51712)
        try world.connect(51728)
        try world.device(51712).news = [.failed(DeviceFailure("requestOverrun"))]
        try world.driver.attend()
        try world.settle()
        #expect(try world.state(51712) == "5")
        #expect(try world.read(World.back("error", 51712)) == "requestOverrun")
        #expect(try world.device(51712).calls == ["disconnect"])
        #expect(try world.state(51728) == "4")
        #expect(try world.device(51728).calls.isEmpty)
    }

    @Test func `a recorded failure keeps a device from being served, until it is created anew`() throws {
        let world = try World(failure: "a flush failed")
        try world.create(own: "4", frontend: "4", [World.back("hotplug-status"): "connected"])
        #expect(try world.state() == "5")
        #expect(try world.device().calls.isEmpty)
        try world.write(World.front("state"), "6")
        try world.write(World.front("state"), "1")
        #expect(try world.state() == "6")
        try world.write(World.back("state"), "1")
        #expect(try world.state() == "2")
        #expect(try world.device().recordedFailure == nil)
    }

    @Test func `a device that somebody else serves is not touched, until it is created anew`() throws {
        let world = try World()
        world.setHolder("the kernel's driver has it")
        try world.create()
        #expect(try world.state() == "1")
        #expect(world.driver.served.isEmpty && world.driver.isFinished)
        #expect(try !world.driver.findsDevice())
        world.setHolder(nil)
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "1")
        try world.remove(World.back(""))
        try world.create()
        #expect(try world.state() == "2")
    }

    @Test func `a device that somebody else takes before it is connected is let go without a word`() throws {
        let world = try World()
        try world.create()
        world.setHolder("the kernel's driver has it")
        try world.write(World.back("hotplug-status"), "connected")
        try world.write(World.front("state"), "3")
        #expect(try world.state() == "2")
        #expect(try world.read(World.back("error")) == nil)
        #expect(try world.device().calls == ["close"] && world.driver.isFinished)
    }

    @Test func `the last look finds a device that nobody has told of`() throws {
        let world = try World()
        try world.settle()
        #expect(try !world.driver.findsDevice())
        try world.toolstack.makeDirectory(XenstorePath(World.back("")))
        #expect(try !world.driver.findsDevice(), "half made")
        try world.toolstack.write(XenstorePath(World.back("state")), "1")
        #expect(try world.driver.findsDevice())
        #expect(world.driver.served.isEmpty)
    }

    @Test func `a store that has lost its memory ends no connection whose guest lives`() throws {
        let world = try World()
        try world.connect()
        world.driver.noteReconnection()
        try world.toolstack.remove(XenstorePath("/local/domain/7"))
        try world.remove("/local/domain/0/backend")
        #expect(try world.device().calls.isEmpty && !world.driver.isFinished)
        try world.settle()
        #expect(try world.device().calls.isEmpty)
        try world.device().isPeerAlive = false
        try world.settle()
        #expect(try world.device().calls == ["disconnect", "close", "discard"])
        #expect(world.driver.isFinished)
    }

    @Test func `a device that was taken away while the store was lost ends, though its guest lives`() throws {
        let world = try World()
        try world.connect(51712)
        try world.connect(51728)
        world.driver.noteReconnection()
        try world.toolstack.remove(XenstorePath(World.front("", 51712)))
        try world.remove(World.back("", 51712))
        #expect(try world.device(51712).calls == ["disconnect", "close", "discard"])
        #expect(try world.device(51728).calls.isEmpty)
        // Seen again, so a later removal counts at once.
        try world.toolstack.remove(XenstorePath("/local/domain/7"))
        try world.remove(World.back("", 51728))
        #expect(world.driver.isFinished)
    }

    @Test func `a change in one device's directory costs the others no look`() throws {
        let world = try World()
        try world.connect(51712)
        try world.connect(51728)
        for number in [51712, 51728] as [UInt32] { try world.device(number).looks = 0 }
        try world.write(World.back("online", 51712), "1")
        #expect(try world.device(51712).looks > 0)
        #expect(try world.device(51728).looks == 0)
    }

    @Test func `forty devices close with hardly more waiting for the store than one`() throws {
        var waits: [Int] = []
        for count in [1, 40] as [UInt32] {
            let world = try World()
            for number in 0..<count { try world.connect(number) }
            let before = world.waits
            for number in 0..<count {
                try world.toolstack.remove(XenstorePath(World.front("", number)))
                try world.toolstack.write(XenstorePath(World.back("online", number)), "0")
                try world.toolstack.write(XenstorePath(World.back("state", number)), "5")
            }
            try world.settle()
            for number in 0..<count {
                #expect(try world.state(number) == "6")
                #expect(try world.device(number).calls == ["disconnect", "close"])
            }
            waits.append(world.waits - before)
        }
        // Requests go out sixteen at a time, and devices too.
        #expect(waits[1] < 10 * waits[0], "\(waits)")
    }

    @Test func `what the store refuses of one device keeps no other, and is tried again`() throws {
        let world = try World()
        for number in 1...3 as ClosedRange<UInt32> { try world.connect(number) }
        let keys = try world.device(2).transportKeys
        // Longer than any value may be.
        try world.device(2).transportKeys = [PublishedKey("max-queues", String(repeating: "8", count: 5000))]
        for number in 1...3 as ClosedRange<UInt32> {
            try world.toolstack.write(XenstorePath(World.front("state", number)), "1")
            try world.toolstack.write(XenstorePath(World.back("state", number)), "1")
        }
        try world.settle()
        for (number, state) in [(1, "2"), (2, "1"), (3, "2")] as [(UInt32, String)] {
            #expect(try world.state(number) == state)
        }
        try world.device(2).transportKeys = keys
        try world.settle()
        #expect(try world.state(2) == "2")
    }

    @Test func `a live key of our own directory is followed too, and the others are not`() throws {
        let world = try World(liveKeys: ["wish"])
        try world.connect()
        try world.write(World.back("rate"), "1")
        try world.write(World.back("rate"), "1")
        try world.write(World.back("mode"), "r")
        try world.remove(World.back("rate"))
        #expect(try world.device().calls == ["update rate=1", "update "])
        #expect(try world.state() == "4")
    }

    /// It may have taken what an earlier process left, which is there once.
    @Test func `a device whose watch is refused is made once, and watched later`() throws {
        let world = try World(liveKeys: [String(repeating: "x", count: 5000)])
        try world.create()
        let device = try world.device()
        #expect(try world.state() == "1")
        device.liveFrontendKeys = []
        try world.settle()
        #expect(try world.state() == "2")
        #expect(try world.device() === device)
    }

    @Test func `suspending writes nothing`() throws {
        let world = try World()
        try world.connect()
        world.driver.suspend()
        #expect(try world.device().calls == ["suspend"])
        #expect(try world.state() == "4")
    }

    @Test func `what an earlier process left connected is adopted`() throws {
        let world = try World()
        try world.create(own: "4", frontend: "4", [World.back("hotplug-status"): "connected"])
        #expect(try world.device().calls == ["adopt"])
        #expect(try world.state() == "4")
    }

    /// What waits for the guest is served before the first `update`.
    @Test func `live keys are there when an earlier process's device is adopted`() throws {
        let world = try World(liveKeys: ["headroom"])
        try world.create(
            own: "4", frontend: "4", [World.back("hotplug-status"): "connected", World.front("headroom"): "256"])
        #expect(try world.device().adoptedKeys["headroom"] == 256)
    }

    @Test(arguments: ["x", "-1", "007", "4294967296", "51712x"])
    func `directories that are no device numbers are left alone`(_ name: String) throws {
        let world = try World()
        try world.write("/local/domain/0/backend/vbd/7/\(name)/state", "1")
        #expect(world.driver.served.isEmpty)
        #expect(try world.read("/local/domain/0/backend/vbd/7/\(name)/state") == "1")
    }

    @Test func `a guest that rewrites its state all the time costs one look`() throws {
        let world = try World()
        try world.connect()
        for _ in 0..<1000 { try world.toolstack.write(XenstorePath(World.front("state")), "4") }
        try world.settle()
        #expect(try world.device().calls.isEmpty && world.driver.hasWork == false)
    }

    @Test func `the store is left as it was found by a second look`() throws {
        let world = try World()
        try world.connect()
        try world.settle()
        #expect(!world.driver.hasWork)
        #expect(try world.device().calls.isEmpty)
    }

    @Test func `in a driver domain a guest that hides its nodes cannot keep its device`() throws {
        let store = InProcessXenstore()
        let toolstack = try XenstoreClient { store.connect(DomainID(0)) }
        let deviceClass = DeviceClass(
            backendType: "vbd", frontendType: "vbd", backend: DomainID(3), frontend: DomainID(7))
        let back = try deviceClass.device(51712).backendPath
        let front = try deviceClass.device(51712).frontendPath
        // As libxl makes a domain's directory; what is made below it inherits the rights.
        for domain in [DomainID(3), DomainID(7)] {
            let path = XenstorePath.domain(domain.rawValue)
            try toolstack.makeDirectory(path)
            try toolstack.setPermissions(
                XenstorePermissions(owner: DomainID(0), grants: [.init(domain, .read)]), of: path)
        }
        for (path, owner) in [(back, UInt16(3)), (front, 7)] {
            try toolstack.makeDirectory(path)
            for name in ["state", "online"] {
                try toolstack.write(path.appending(name), "1")
                let permissions = XenstorePermissions(
                    owner: DomainID(owner), grants: [.init(DomainID(owner == 3 ? 7 : 3), .read)])
                try toolstack.setPermissions(permissions, of: path.appending(name))
                try toolstack.setPermissions(permissions, of: path)
            }
        }
        let backend = try XenstoreClient { store.connect(DomainID(3)) }
        let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let driver = try XenbusDriver(backend, [deviceClass], log: log) { RecordingDevice($0) }
        try driver.process()
        #expect(try toolstack.read(back.appending("state"))?.text == "2")

        let guest = try XenstoreClient { store.connect(DomainID(7)) }
        try guest.setPermissions(XenstorePermissions(owner: DomainID(7)), of: front.appending("state"))
        try toolstack.write(back.appending("online"), "0")
        try toolstack.write(back.appending("state"), "5")
        try backend.processReadable()
        try driver.process()
        #expect(try toolstack.read(back.appending("state"))?.text == "6")
    }
}
