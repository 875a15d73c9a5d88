public import Xenstore

/// Nodes of one directory that a device class asked for, by their path below it; missing ones are absent.
public typealias NodeValues = [String: XenstoreValue]

/// Keys that may change while a device is connected, of both ends.
public struct LiveKeys: Equatable, Sendable {
    public var backend: NodeValues
    public var frontend: NodeValues

    public init(backend: NodeValues = [:], frontend: NodeValues = [:]) {
        self.backend = backend
        self.frontend = frontend
    }
}

/// What xenstore says about one device at one moment: everything that its life depends on.
public struct Observation: Equatable, Sendable {
    /// Our own `state`; `nil` when the node, and with it the device, has vanished.
    public var backend: XenbusState?
    /// `online`: false when the toolstack wants the device gone once it is closed.
    public var isOnline: Bool
    /// `hotplug-status`.
    public var hotplug: HotplugStatus
    /// A `script` node exists, so somebody is going to run it.
    public var hasScript: Bool
    /// The frontend's `state`; `nil` when the node has vanished.
    public var frontend: XenbusState?
    /// The keys by which the frontend describes its rings, all read in one transaction.
    public var frontendKeys: NodeValues
    /// The keys that may change while it is connected; nil for devices that have none.
    public var liveKeys: LiveKeys?

    /// Everything observed.
    public init(
        backend: XenbusState?, isOnline: Bool, hotplug: HotplugStatus, hasScript: Bool, frontend: XenbusState?,
        frontendKeys: NodeValues, liveKeys: LiveKeys? = nil
    ) {
        self.backend = backend
        self.isOnline = isOnline
        self.hotplug = hotplug
        self.hasScript = hasScript
        self.frontend = frontend
        self.frontendKeys = frontendKeys
        self.liveKeys = liveKeys
    }

    /// The volume or interface behind the device exists: its script is done, or there is none to wait for.
    var isPluggedIn: Bool { hotplug == .connected || (hotplug == .absent && !hasScript) }
}

/// How far a failure reaches.
public enum FailureScope: Sendable {
    /// This attempt: xenstore stays as it is, and the step is taken again in a second.
    case attempt
    /// This connection: a frontend that closes and comes back is served again.
    case connection
    /// The device for good: after a failed flush nobody knows what is on the disk.
    case device
}

/// What can happen to a device.
public enum DeviceEvent: Sendable {
    /// A watch fired; this is what xenstore says now. Events are levels, not edges: equal observations are harmless.
    case observed(Observation)
    /// The device cannot go on: a bad key, a ring out of bounds, a volume that does not open.
    case failed(String, FailureScope)
}

/// What is to be done, in order; when one of them fails the rest is dropped and the failure is the next event.
public enum Effect: Equatable, Sendable {
    /// Write the keys that a frontend reads before it sets up its rings.
    case publishTransportKeys
    /// Negotiate, open the volume, map the rings, start the queues. An earlier process may have come as far and have been
    /// killed before it could say so.
    case connect(frontendKeys: NodeValues)
    /// The same for rings that an earlier process has served and left as they are.
    case adopt(frontendKeys: NodeValues)
    /// Do as the live keys say.
    case update(liveKeys: LiveKeys)
    /// Write the keys that describe what is behind the device.
    case publishDeviceKeys
    /// Take no more requests, let what is in flight end and be answered, unmap, unbind.
    case disconnect
    /// The same before the next connection, mostly to rings that the guest has made itself instead. Until those are served it
    /// stays known which these were: whoever is killed meanwhile leaves a guest that the next process recognises.
    case suspend
    /// Close what is behind the device, also what an earlier process has left open; no rings are known any more.
    case closeVolume
    /// Write our `state`, in a transaction that finds the node still there.
    case switchState(XenbusState)
    /// Write the `error` node and log.
    case publishError(String)
    /// Forget that the device had failed for good: it is another device now.
    case absolve
    /// Drop the device, its watches and the record of a failure; write nothing to xenstore.
    case forget
}

/// What the daemon itself knows about a device, beyond xenstore.
public struct DeviceState: Equatable, Sendable {
    /// The keys with which the queues that run now were connected.
    public var connectedKeys: NodeValues?
    /// The live keys that they follow.
    public var liveKeys: LiveKeys?
    /// The transport keys were written by this process for the device as it is now.
    public var hasPublished = false
    /// This process has closed the volume since there were any rings: none are known, of an earlier process neither.
    public var hasNoRings = false
    /// The connection failed; it is not resumed before both ends were closed.
    public var hasFailed = false
    /// The device failed for good.
    public var isCondemned = false
    /// The device is gone; nothing happens any more.
    public var isForgotten = false
    /// What was observed last.
    public var observation: Observation?

    /// A device that was just noticed.
    public init() {}

    /// Queues are running.
    public var isConnected: Bool { connectedKeys != nil }

    /// The same before a connection, or after it.
    var withoutQueues: DeviceState {
        var state = self
        state.connectedKeys = nil
        state.liveKeys = nil
        return state
    }
}

/// The life of a split device as a pure function.
public enum Lifecycle {
    /// One step. Feeding the result of the effects back in as an observation ends in a step without effects.
    public static func step(_ state: DeviceState, _ event: DeviceEvent) -> (DeviceState, [Effect]) {
        guard !state.isForgotten else { return (state, []) }
        var step = Step(state: state)
        switch event {
        case .observed(let observation): step.observe(observation)
        case .failed(let reason, let scope): step.fail(reason, scope)
        }
        return (step.state, step.effects)
    }
}

/// One step in the making: rules append effects and keep `state` in line with them.
private struct Step {
    var state: DeviceState
    var effects: [Effect] = []

    mutating func observe(_ now: Observation) {
        state.observation = now
        switch now.backend {
        case nil: vanish()
        // Somebody took our 5 back; there are no queues behind it.
        case .connected where state.hasFailed, .initWait where state.hasFailed: move(to: .closing)
        case .connected: whileConnected(now)
        case .reconfigured where now.liveKeys != nil: whileConnected(now)
        case .initWait: whileWaiting(now)
        case .closing: whileClosing(now)
        case .closed: whileClosed(now)
        // 1 is what a toolstack writes; the others no backend of this kind ever has, so the device is new as well.
        case .initialising, .unknown, .initialised, .reconfiguring, .reconfigured: begin(now)
        }
    }

    // The rules, one function per own state.

    /// Surprise removal: the directory is gone. Nothing is written, that would resurrect it.
    private mutating func vanish() {
        stop()
        effects += [.closeVolume, .forget]
        state.isForgotten = true
    }

    /// A device that was created, perhaps in the place of one that we still serve, or that a process before us has served.
    private mutating func begin(_ now: Observation) {
        // Created in one transaction with its frontend; without one it is half made or half removed.
        guard now.frontend.isPresent else {
            if stop() || state.hasPublished { release() }
            return absolve()
        }
        stop()
        publish(isNew: true)
    }

    private mutating func whileWaiting(_ now: Observation) {
        switch now.frontend {
        case .closing:
            stop()
            move(to: .closing)
        case nil, .unknown, .closed: close()
        case .initialised, .connected: takeUp(now)
        // One that went on before it saw our 4, and has been given a program for its frames since.
        case .reconfiguring where now.liveKeys != nil: takeUp(now)
        case .initialising, .initWait, .reconfiguring, .reconfigured:
            stop()
            // What rings there may have been are gone, and we have not seen them go.
            if !state.hasNoRings { closeVolume() }
            publishAgain()
        }
    }

    private mutating func whileConnected(_ now: Observation) {
        switch now.frontend {
        case .closing:
            stop()
            move(to: .closing)
        // A kernel started by kexec resets its frontends without closing them first.
        case nil, .unknown, .initialising, .initWait, .closed: close()
        case .initialised, .connected: keepConnected(now)
        case .reconfiguring where now.liveKeys != nil: reconfigure(now)
        case .reconfiguring, .reconfigured: break
        }
    }

    /// Both who wants to unplug and who failed writes 5. A frontend that is still connected is served until it closes:
    /// it may have data to write.
    private mutating func whileClosing(_ now: Observation) {
        switch now.frontend {
        case nil, .unknown, .initialising, .initWait, .closed: close()
        case .closing: stop()
        case .initialised, .connected, .reconfiguring, .reconfigured: lingerOrClose(now)
        }
    }

    private mutating func whileClosed(_ now: Observation) {
        let wasServed = stop()
        state.hasFailed = false
        if comesBack(now) {
            publish(isNew: false)
        } else if wasServed {
            closeVolume()
        }
    }

    private func comesBack(_ now: Observation) -> Bool {
        guard now.isOnline, !state.isCondemned else { return false }
        return switch now.frontend {
        // Frontends that do not wait for our 2 are at 3 when we look again.
        case .initialising, .initWait, .initialised: true
        default: false
        }
    }

    mutating func fail(_ reason: String, _ scope: FailureScope) {
        if scope == .device { state.isCondemned = true }
        state.hasFailed = true
        stop()
        effects.append(.publishError(reason))
        switch state.observation?.backend {
        case nil, .closing, .closed: break
        default: move(to: .closing)
        }
    }

    // What the rules are made of.

    /// Ends the queues; false if there were none.
    ///
    /// - Parameter how: `.suspend` if a connection follows. Until new rings are served the old ones are known.
    @discardableResult
    private mutating func stop(_ how: Effect = .disconnect) -> Bool {
        guard state.isConnected else { return false }
        effects.append(how)
        state = state.withoutQueues
        return true
    }

    private mutating func absolve() {
        if state.isCondemned { effects.append(.absolve) }
        state.isCondemned = false
        state.hasFailed = false
    }

    private mutating func closeVolume() {
        effects.append(.closeVolume)
        state.hasNoRings = true
    }

    private mutating func release() {
        closeVolume()
        state.hasPublished = false
        state.hasFailed = false
    }

    /// The volume is closed before 6 is written: after it the toolstack may start another domain on it.
    private mutating func close() {
        stop()
        release()
        move(to: .closed)
    }

    /// The frontend makes itself rings from here on: those that a process knows after this are theirs.
    private mutating func publish(isNew: Bool) {
        release()
        // Closing may find out that a flush had failed: on a disk that is another one now.
        if isNew {
            effects.append(.absolve)
            state.isCondemned = false
        }
        effects.append(.publishTransportKeys)
        state.hasPublished = true
        move(to: .initWait)
    }

    /// An earlier process may have written state 2 with other features than ours.
    private mutating func publishAgain() {
        guard !state.hasPublished else { return }
        effects.append(.publishTransportKeys)
        state.hasPublished = true
    }

    private mutating func connect(_ now: Observation) {
        effects += [.connect(frontendKeys: now.frontendKeys), .publishDeviceKeys]
        (state.connectedKeys, state.hasNoRings) = (now.frontendKeys, false)
        update(now)
    }

    private mutating func takeUp(_ now: Observation) {
        publishAgain()
        guard now.isPluggedIn else {
            stop()
            return
        }
        // Queues that run: our 4, and the keys with it, could not be written, or somebody took it back.
        stop(.suspend)
        connect(now)
        move(to: .connected)
    }

    /// Connected without queues: an earlier process left the device so, and the guest still waits on its rings.
    private mutating func adopt(_ now: Observation) {
        effects += [.adopt(frontendKeys: now.frontendKeys), .publishDeviceKeys]
        (state.connectedKeys, state.hasNoRings) = (now.frontendKeys, false)
        update(now)
    }

    private mutating func update(_ now: Observation) {
        guard let keys = now.liveKeys, keys != state.liveKeys else { return }
        effects.append(.update(liveKeys: keys))
        state.liveKeys = keys
    }

    /// The frontend waits with 7 until we say 8, and goes back to 4 itself.
    private mutating func reconfigure(_ now: Observation) {
        guard state.isConnected else {
            if now.isPluggedIn { adopt(now) }
            return
        }
        update(now)
        move(to: .reconfigured)
    }

    /// Other keys than those that we serve: the guest was resumed and has made itself new rings.
    private mutating func keepConnected(_ now: Observation) {
        guard now.isPluggedIn else { return }
        guard state.connectedKeys != now.frontendKeys else {
            update(now)
            // Else the 8 would still be there when the frontend waits for the next one; xen-netback leaves it.
            return move(to: .connected)
        }
        guard state.isConnected else { return adopt(now) }
        stop(.suspend)
        connect(now)
    }

    /// Own state 5 under a frontend that has not begun to close.
    private mutating func lingerOrClose(_ now: Observation) {
        guard !now.isOnline, !state.isConnected else { return }
        switch now.frontend {
        // Unplugged while no process served it: the guest still has to be served before it can close.
        case .connected where !state.hasFailed:
            if now.isPluggedIn { adopt(now) }
        case .connected: break
        // It never was connected, so there is nothing for it to close.
        default: close()
        }
    }

    private mutating func move(to target: XenbusState) {
        guard state.observation?.backend != target else { return }
        effects.append(.switchState(target))
    }
}

extension XenbusState? {
    fileprivate var isPresent: Bool { self != nil && self != .unknown }
}
