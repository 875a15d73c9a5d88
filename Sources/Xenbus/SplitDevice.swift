/// A node that a backend publishes in its own directory.
public struct PublishedKey: Equatable, Sendable {
    public let name: String
    public let value: String

    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }

    /// A number, or a flag as 0 or 1.
    public init(_ name: String, _ number: some FixedWidthInteger) {
        self.init(name, String(number))
    }
}

/// Keys that the driver adds to those of a device's own directory, by names that no node can have.
public enum DomainKeys {
    /// The path of the frontend's `vm` node, with its uuid: numbers of domains are used again.
    public static let vm = "/vm"
}

/// Why a device cannot go on, in words for the `error` node.
public struct DeviceFailure: Error, Equatable, Sendable {
    public let reason: String
    public let scope: FailureScope
    /// What else is to be written, beside `error`.
    public let keys: [PublishedKey]

    public init(_ reason: String, _ scope: FailureScope = .connection, keys: [PublishedKey] = []) {
        self.reason = reason
        self.scope = scope
        self.keys = keys
    }
}

/// What a running device has to say to the driver.
public enum DeviceNews: Equatable, Sendable {
    /// It cannot go on.
    case failed(DeviceFailure)
    /// What it published has changed (a volume was resized): the keys and `state` are written again.
    case changed([PublishedKey])
}

/// One device of some class as the driver sees it. Used from the control thread only.
public protocol SplitDevice: AnyObject {
    /// The nodes of the backend's own directory that `connect` needs.
    var backendKeys: [String] { get }
    /// Nodes of the backend's own directory that may change while it is connected.
    var liveBackendKeys: [String] { get }
    /// The nodes of the frontend's directory to be read first.
    var frontendKeys: [String] { get }
    /// Those whose names depend on the first ones; all are read in the same transaction.
    func frontendKeys(after known: NodeValues) -> [String]
    /// Nodes of the frontend's directory that may change while it is connected; such a device may be reconfigured as well
    /// (states 7 and 8). None for most.
    var liveFrontendKeys: [String] { get }

    /// What a frontend reads before it sets up its rings.
    var transportKeys: [PublishedKey] { get }
    /// Negotiates, opens what is behind the device and starts the queues; returns what describes the device. What an earlier
    /// process has done on these very rings, before it could write state 4, is neither lost nor done twice.
    func connect(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey]
    /// The same for rings that an earlier process has served: what is on them is not lost and not done twice.
    func adopt(frontend: NodeValues, backend: NodeValues) throws(DeviceFailure) -> [PublishedKey]
    /// What the live keys say now: after each connection, and when they have changed.
    func update(_ keys: LiveKeys) throws(DeviceFailure)
    /// Stops the queues and leaves everything so that another process can `adopt` it. `connect` may follow, for rings that
    /// the guest has made itself instead.
    func suspend()
    /// Stops the queues: what is in flight ends and is answered.
    func disconnect()
    /// Closes what is behind the device, also what an earlier process has left open; no rings are known any more.
    func closeVolume()

    /// While connected: the guest still grants us its rings, so it lives and waits for answers.
    var isPeerAlive: Bool { get }

    /// Polls readable when `attend` has something to say; -1 if it has none now.
    var attention: Int32 { get }
    /// What has changed since the last call. Called when `attention` is readable and about once a second.
    func attend() -> [DeviceNews]

    /// A failure for good that an earlier process recorded.
    var recordedFailure: String? { get }
    /// The device is another one now, or gone.
    func forgetFailure()
    /// The device is gone for good: what it has in the host goes too. A process that ends leaves that as it is, whatever
    /// state the device is in.
    func discard()
}

extension SplitDevice {
    public var liveBackendKeys: [String] { [] }
    public var liveFrontendKeys: [String] { [] }
    public func update(_ keys: LiveKeys) throws(DeviceFailure) {}
    public func discard() {}
}
