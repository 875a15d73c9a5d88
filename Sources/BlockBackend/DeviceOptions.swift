public import Descriptors
public import SharedRing
public import Uring
internal import Xenbus
internal import Xenstore

/// What the administrator decided for all disks of a process.
public struct DeviceOptions: Sendable {
    /// What frontends are offered.
    public var offer: ConnectionOffer
    /// The kernel interface that carries the I/O.
    public var engine: EngineChoice
    /// I/O around the page cache.
    public var direct: DirectMode
    /// Loop devices are served as the files behind them.
    public var loopFiles: Bool
    /// Bytes of buffer memory per queue.
    public var bufferCeiling: Int
    /// Offer write barriers to writable disks.
    public var offersBarrier: Bool
    /// Queues may look at their rings for a while before they sleep.
    public var mayPoll: Bool
    /// Of frontends with persistent grants: shared by all devices that are made with these options.
    public let mappedPages = MappedPageBudget()

    public init(
        offer: ConnectionOffer = ConnectionOffer(), engine: EngineChoice, direct: DirectMode = .auto,
        loopFiles: Bool = true, bufferCeiling: Int = 8 << 20, offersBarrier: Bool = false, mayPoll: Bool = true
    ) {
        self.offer = offer
        self.engine = engine
        self.direct = direct
        self.loopFiles = loopFiles
        self.bufferCeiling = bufferCeiling
        self.offersBarrier = offersBarrier
        self.mayPoll = mayPoll
    }

    /// For a guest that is connected, which has been told other things perhaps: our own directory says which.
    func agreed(_ published: NodeValues) -> DeviceOptions {
        var options = self
        options.offer = .agreed(published, offer)
        options.offersBarrier = published["feature-barrier"]?.text == "1"
        return options
    }

    /// Nodes of our own directory that `agreed` goes by.
    static let publishedKeys = ConnectionOffer.publishedKeys + ["feature-barrier"]
}

/// What must be remembered beyond a process, as small texts by name.
public protocol DeviceRecords: AnyObject {
    /// Nil if there is no such record.
    func record(_ name: String) throws(Fault) -> String?
    /// Replaces a record; nil removes it.
    func setRecord(_ name: String, _ text: String?) throws(Fault)
    /// A record that is written without a call: new, or nil if there is none. `bytes` is its size, nil any that it has.
    func journal(_ name: String, bytes: Int?, making: Bool) throws(Fault) -> MappedFile?
    /// Gives a new journal its name, as a whole: nobody finds it half made.
    func settle(_ name: String) throws(Fault)
    /// What tells this run of the host from others: records of journals do not outlive it.
    var boot: String { get }
}
