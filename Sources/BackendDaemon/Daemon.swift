public import Descriptors
public import Logging
public import Service
public import SharedRing
public import Telemetry
public import XenWire
public import Xenbus
internal import Xenstore

/// What one kind of backend brings along.
public struct BackendKind {
    /// The program's.
    public let name: String
    /// Of the files in the state directory; the domain's number follows.
    public let prefix: String
    /// The devices to serve, of this frontend and this backend domain.
    public let classes: (_ frontend: DomainID, _ backend: DomainID) -> [DeviceClass]
    /// Who else serves a device, and what can be done about it.
    public let holder: (DeviceIdentity) -> String?
    /// Called once before any device is served: undoes what earlier processes have left of devices that are gone. The
    /// function tells whether a device is there; it throws if xenstore does not say.
    public let clearAway: (Heritage, (DomainID, UInt32) throws -> Bool, Logger) -> Void
    /// Called for every device that appears.
    public let makeDevice: (DeviceIdentity, any RingPlatform, any Clock, Heritage, Logger) -> any SplitDevice
    /// What the status file calls a device's part: `disk`.
    public let statusName: String
    /// What it says of a device that this kind has made.
    public let status: (any SplitDevice) -> JSON?

    public init(
        name: String, prefix: String, statusName: String,
        classes: @escaping (_ frontend: DomainID, _ backend: DomainID) -> [DeviceClass],
        holder: @escaping (DeviceIdentity) -> String? = { _ in nil },
        clearAway: @escaping (Heritage, (DomainID, UInt32) throws -> Bool, Logger) -> Void = { _, _, _ in },
        makeDevice: @escaping (DeviceIdentity, any RingPlatform, any Clock, Heritage, Logger) -> any SplitDevice,
        status: @escaping (any SplitDevice) -> JSON?
    ) {
        self.name = name
        self.prefix = prefix
        self.statusName = statusName
        self.classes = classes
        self.holder = holder
        self.clearAway = clearAway
        self.makeDevice = makeDevice
        self.status = status
    }
}

/// What processes of a domain's daemon leave each other.
public struct Heritage: Sendable {
    public let state: StateDirectory
    public let descriptors: LeftDescriptors
    /// Takes descriptors for the next process.
    public let manager: ServiceManager
}

/// The control thread: one loop over xenstore, signals and the queues' calls for attention.
public final class Daemon {
    private let kind: BackendKind
    private let log: Logger
    private let signals: TerminationSignals
    private let manager: ServiceManager
    private let state: StateDirectory
    private let client: XenstoreClient
    private let driver: XenbusDriver
    private let clock = SystemClock()
    private var nextTick: UInt64 = 0
    private var lastStatus = ""
    private let start: UInt64
    /// Our own number: the file outlives us if we are killed.
    private let process = ServiceManager.process

    /// Nanoseconds between two looks at what nobody announces: a volume's size, a lost xenstore.
    private static let tick: UInt64 = 1_000_000_000
    /// Nanoseconds to wait for the first device: longer than any toolstack takes, so that nobody waits for a domain that
    /// was gone before this process came.
    private static let patience: UInt64 = 60_000_000_000
    /// Milliseconds to wait for the lock where somebody starts this process again: another domain's daemon has the lock for
    /// moments, when it clears away what was left of a device that is gone.
    private static let lockPatience: UInt32 = 2000

    /// Puts everything together; nothing has been promised to anybody when this throws.
    public init(_ kind: BackendKind, _ options: DaemonOptions, _ environment: Environment) throws {
        let log = Logger(label: kind.name)
        signals = try TerminationSignals()
        for refused in ProcessLimits.adjust() { log.debug("\(refused)") }
        let world = try World(options, environment, log)
        let state = try StateDirectory(
            options.stateDirectory(of: kind.name), name: "\(kind.prefix)-\(options.domid)",
            patience: environment.notifySocket == nil ? 0 : Self.lockPatience)
        let clock = clock
        let manager = ServiceManager(socket: environment.notifySocket)
        let heritage = Heritage(state: state, descriptors: environment.leftDescriptors, manager: manager)
        client = try world.connect()
        let backend = try options.backendDomid.map { DomainID($0) } ?? client.ownDomain() ?? DomainID(0)
        driver = try XenbusDriver(
            client, kind.classes(DomainID(options.domid), backend), log: log, holder: kind.holder
        ) { identity in
            kind.makeDevice(identity, world.platform, clock, heritage, log)
        }
        kind.clearAway(heritage, { [client] in try Self.isPresent($0, $1, kind, backend, client) }, log)
        self.kind = kind
        self.log = log
        start = clock.now()
        self.state = state
        self.manager = manager
    }

    private static func isPresent(
        _ frontend: DomainID, _ number: UInt32, _ kind: BackendKind, _ backend: DomainID, _ client: XenstoreClient
    ) throws -> Bool {
        for deviceClass in kind.classes(frontend, backend) {
            let state = try deviceClass.device(number).backendPath.appending("state")
            if try client.read(state) != nil { return true }
        }
        return false
    }

    /// How serving ended.
    public enum End {
        /// There is nothing more to do, or a signal has come.
        case done
        /// A device has come while the process was about to end: another process must start.
        case again
    }

    /// Serves until the last device is gone or a signal comes.
    public func run() throws -> End {
        work()
        manager.tell("READY=1")
        while true {
            if driver.isFinished { return leave("no device is left to serve") }
            if driver.isUnused, clock.now() - start > Self.patience { return leave("no device has appeared") }
            if try sleep() {
                manager.tell("STOPPING=1")
                driver.suspend()
                return .done
            }
            work()
        }
    }

    /// First nobody relies on this process any more: the service manager would start another, and so would whoever finds
    /// the lock free. Only then a last look: a device that appears after it finds one of them, any other is found by it.
    private func leave(_ reason: String) -> End {
        log.notice("\(reason)")
        removeStatus()
        manager.tell("STOPPING=1")
        manager.settle()
        state.unlock()
        do throws(XenstoreError) {
            guard try driver.findsDevice() else { return .done }
            log.notice("a device has appeared meanwhile: starting over")
        } catch {
            log.warning("\(error)")
        }
        return .again
    }

    /// Everything that is to be done now. A lost xenstore stops nobody's I/O: it is looked for once a second.
    private func work() {
        do throws(XenstoreError) {
            let isTick = clock.now() >= nextTick
            if !client.isConnected, isTick {
                try client.reconnect()
                driver.noteReconnection()
            }
            if client.isConnected {
                try driver.process()
                try driver.attend()
            }
        } catch {
            log.error("\(error)")
        }
        if clock.now() >= nextTick {
            nextTick = clock.now() + Self.tick
            writeStatus()
        }
    }

    /// Waits for something to do; true after a signal.
    private func sleep() throws(Fault) -> Bool {
        let sources = [signals.descriptor, client.descriptor] + driver.served.map(\.device.attention)
        let ready = try Poll.readable(sources, milliseconds: driver.hasWork && client.isConnected ? 0 : untilTick)
        if ready[1] {
            do throws(XenstoreError) { try client.processReadable() } catch { log.error("\(error)") }
        }
        // What a device has to say changes its status.
        if ready.dropFirst(2).contains(true) { nextTick = 0 }
        guard ready[0], let name = signals.take() else { return false }
        log.notice("\(name): finishing what is in flight, the disks stay connected")
        return true
    }

    private var untilTick: Int32 {
        let now = clock.now()
        return nextTick <= now ? 0 : Int32(truncatingIfNeeded: (nextTick - now) / 1_000_000 + 1)
    }

    private func writeStatus() {
        let devices = driver.served.map { served in
            var members = [
                JSON.Member("device", .string("\(served.identity)")),
                JSON.Member("state", .string(served.state.observation?.backend.map { "\($0)" } ?? "none")),
            ]
            if let status = kind.status(served.device) { members.append(.init(kind.statusName, status)) }
            return JSON.object(members)
        }
        let text = JSON.object([.init("process", .number(process)), .init("devices", .array(devices))]).text + "\n"
        guard text != lastStatus else { return }
        lastStatus = text
        do throws(Fault) {
            try state.replace("status", with: text)
        } catch {
            log.warning("\(error)")
        }
    }
}

extension Daemon {
    private func removeStatus() {
        do throws(Fault) { try state.remove("status") } catch { log.warning("\(error)") }
    }
}
