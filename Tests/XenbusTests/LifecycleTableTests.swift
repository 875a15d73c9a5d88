import Testing
import Xenbus
import Xenstore

/// Every (own state, frontend state, online, hotplug-status) against hand-written tables and against the invariants.
struct LifecycleTableTests {
    static let keys: NodeValues = ["ring-ref": 8, "event-channel": 3]
    static let otherKeys: NodeValues = ["ring-ref": 9, "event-channel": 4]
    static let states: [XenbusState?] = [nil] + XenbusState.allCases

    /// All 800 observations, with and without a script.
    static let observations: [Observation] = states.flatMap { own in
        states.flatMap { frontend in
            [true, false].flatMap { online in
                HotplugStatus.allCases.flatMap { hotplug in
                    [true, false].map { script in
                        Observation(
                            backend: own, isOnline: online, hotplug: hotplug, hasScript: script, frontend: frontend,
                            frontendKeys: keys)
                    }
                }
            }
        }
    }

    static var published: DeviceState {
        var state = DeviceState()
        state.hasPublished = true
        return state
    }

    static var connected: DeviceState {
        var state = published
        state.connectedKeys = keys
        return state
    }

    static var elsewhere: DeviceState {
        var state = published
        state.connectedKeys = otherKeys
        return state
    }

    static var failed: DeviceState {
        var state = published
        state.hasFailed = true
        return state
    }

    static var condemned: DeviceState {
        var state = failed
        state.isCondemned = true
        return state
    }

    static let starts = [DeviceState(), published, connected, elsewhere, failed, condemned]

    // MARK: tables

    // Rows: own state absent, 0 ... 8. Columns: frontend state absent, 0 ... 8.
    // A cell is the state that is written ("-": none) and what else happens: "." nothing, "p" publish transport keys,
    // "a" adopt, "b" publish and connect, "d" disconnect, "D" disconnect and publish, "r" suspend and connect, "x" forget,
    // "X" disconnect and forget. Closing the volume goes with every 6 and forget, and with every publishing but that under
    // a frontend that has its rings.

    static let freshOnlineReady = """
        -x -x -x -x -x -x -x -x -x -x
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. -p -p 4b 4b 5. 6. -p -p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. 6. 6. -a -a 5. 6. -. -.
        6. 6. 6. 6. -. -. -. 6. -. -.
        -. -. 2p 2p 2p -. -. -. -. -.
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        """

    static let freshOnlineWaiting = """
        -x -x -x -x -x -x -x -x -x -x
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. -p -p -p -p 5. 6. -p -p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. 6. 6. -. -. 5. 6. -. -.
        6. 6. 6. 6. -. -. -. 6. -. -.
        -. -. 2p 2p 2p -. -. -. -. -.
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        """

    static let freshOfflineReady = """
        -x -x -x -x -x -x -x -x -x -x
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. -p -p 4b 4b 5. 6. -p -p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. 6. 6. -a -a 5. 6. -. -.
        6. 6. 6. 6. 6. -a -. 6. 6. 6.
        -. -. -. -. -. -. -. -. -. -.
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        """

    static let freshOfflineWaiting = """
        -x -x -x -x -x -x -x -x -x -x
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. -p -p -p -p 5. 6. -p -p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        6. 6. 6. 6. -. -. 5. 6. -. -.
        6. 6. 6. 6. 6. -. -. 6. 6. 6.
        -. -. -. -. -. -. -. -. -. -.
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        -. -. 2p 2p 2p 2p 2p 2p 2p 2p
        """

    static let servingOnlineReady = """
        -X -X -X -X -X -X -X -X -X -X
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d -d -d 4r 4r 5d 6d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d 6d 6d -. -. 5d 6d -. -.
        6d 6d 6d 6d -. -. -d 6d -. -.
        -d -d 2D 2D 2D -d -d -d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        """

    static let servingOfflineReady = """
        -X -X -X -X -X -X -X -X -X -X
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d -d -d 4r 4r 5d 6d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d 6d 6d -. -. 5d 6d -. -.
        6d 6d 6d 6d -. -. -d 6d -. -.
        -d -d -d -d -d -d -d -d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        """

    static let servingOthers = """
        -X -X -X -X -X -X -X -X -X -X
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d -d -d 4r 4r 5d 6d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        6d 6d 6d 6d -r -r 5d 6d -. -.
        6d 6d 6d 6d -. -. -d 6d -. -.
        -d -d 2D 2D 2D -d -d -d -d -d
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        -d -d 2D 2D 2D 2D 2D 2D 2D 2D
        """

    /// What a step did, in the tables' notation.
    static func cell(_ effects: [Effect]) -> String {
        var written = "-"
        for case .switchState(let target) in effects { written = target.text }
        let connects = effects.contains { if case .connect = $0 { true } else { false } }
        let adopts = effects.contains { if case .adopt = $0 { true } else { false } }
        let publishes = effects.contains(.publishTransportKeys)
        let disconnects = effects.contains(.disconnect)
        let suspends = effects.contains(.suspend)
        let rest =
            switch (effects.contains(.forget), disconnects, publishes, connects || adopts) {
            case (false, false, false, true) where suspends: adopts ? "?" : "r"
            case _ where suspends: "?"
            case (true, false, false, false): "x"
            case (true, true, false, false): "X"
            case (false, false, false, false): "."
            case (false, false, true, false): "p"
            case (false, false, false, true): adopts ? "a" : "?"
            case (false, false, true, true): "b"
            case (false, true, false, false): "d"
            case (false, true, true, false): "D"
            default: "?"
            }
        return written + rest
    }

    static func table(
        of state: DeviceState, online: Bool, hotplug: HotplugStatus, script: Bool
    ) -> String {
        states.map { own in
            states.map { frontend in
                let now = Observation(
                    backend: own, isOnline: online, hotplug: hotplug, hasScript: script, frontend: frontend,
                    frontendKeys: keys)
                return cell(Lifecycle.step(state, .observed(now)).1)
            }.joined(separator: " ")
        }.joined(separator: "\n")
    }

    @Test(arguments: [
        (HotplugStatus.connected, true, true), (.connected, false, true), (.absent, false, true),
        (.absent, true, false), (.pending, true, false), (.pending, false, false), (.failed, true, false),
        (.failed, false, false),
    ])
    func `every first observation of a device has the tables' consequence`(
        _ hotplug: HotplugStatus, _ script: Bool, _ ready: Bool
    ) {
        let online = ready ? Self.freshOnlineReady : Self.freshOnlineWaiting
        let offline = ready ? Self.freshOfflineReady : Self.freshOfflineWaiting
        #expect(Self.table(of: DeviceState(), online: true, hotplug: hotplug, script: script) == online)
        #expect(Self.table(of: DeviceState(), online: false, hotplug: hotplug, script: script) == offline)
    }

    @Test func `every observation of a device that is being served has the tables' consequence`() {
        #expect(
            Self.table(of: Self.connected, online: true, hotplug: .connected, script: true) == Self.servingOnlineReady)
        #expect(
            Self.table(of: Self.connected, online: false, hotplug: .connected, script: true)
                == Self.servingOfflineReady)
        #expect(
            Self.table(of: Self.elsewhere, online: true, hotplug: .connected, script: true) == Self.servingOthers)
    }

    /// What is known of rings is believed when xenstore says 2 or 4 to them, so it must not be of older ones.
    @Test(arguments: starts)
    func `before a frontend makes itself rings, those that were are given up`(_ start: DeviceState) {
        for now in Self.observations {
            let (_, effects) = Lifecycle.step(start, .observed(now))
            guard let offered = effects.firstIndex(of: .publishTransportKeys) else { continue }
            let hasRings = now.backend == .initWait && (now.frontend == .initialised || now.frontend == .connected)
            #expect(effects[..<offered].contains(.closeVolume) == !hasRings, "\(now)")
        }
    }

    /// Whoever is killed in between would leave rings that are said to be served, and of which nobody knows anything.
    @Test(arguments: starts)
    func `rings are not given up where others follow`(_ start: DeviceState) {
        for now in Self.observations {
            let (_, effects) = Lifecycle.step(start, .observed(now))
            guard effects.contains(where: Self.startsQueues) else { continue }
            #expect(!effects.contains(.disconnect) && !effects.contains(.closeVolume), "\(now)")
        }
    }

    // MARK: invariants

    static func startsQueues(_ effect: Effect) -> Bool {
        switch effect {
        case .connect, .adopt: true
        default: false
        }
    }

    /// Applies steps to their own results, as the driver and xenstore would, until nothing happens.
    static func settle(_ state: DeviceState, _ first: Observation) -> (DeviceState, Observation, [[Effect]]) {
        var state = state
        var now = first
        var history: [[Effect]] = []
        while history.count < 20 {
            let (next, effects) = Lifecycle.step(state, .observed(now))
            state = next
            if effects.isEmpty { return (state, now, history) }
            history.append(effects)
            for case .switchState(let target) in effects where now.backend != nil { now.backend = target }
        }
        return (state, now, history)
    }

    @Test(arguments: starts)
    func `every chain of steps ends`(_ start: DeviceState) {
        for now in Self.observations {
            let (_, _, history) = Self.settle(start, now)
            #expect(history.count <= 4, "\(now): \(history)")
        }
    }

    @Test(arguments: starts)
    func `state 4 is written only with queues, a ready frontend and hotplug done`(_ start: DeviceState) {
        for now in Self.observations {
            let (state, last, history) = Self.settle(start, now)
            guard history.joined().contains(.switchState(.connected)) else { continue }
            #expect(state.isConnected)
            #expect(last.frontend == .initialised || last.frontend == .connected)
            #expect(now.hotplug == .connected || (now.hotplug == .absent && !now.hasScript))
        }
    }

    @Test(arguments: starts)
    func `nothing is written for a device that has vanished, ever again`(_ start: DeviceState) {
        for now in Self.observations where now.backend == nil {
            let (state, _, history) = Self.settle(start, now)
            let touching = history.joined().filter {
                switch $0 {
                case .disconnect, .suspend, .closeVolume, .absolve, .forget: false
                default: true
                }
            }
            #expect(touching.isEmpty)
            #expect(state.isForgotten && !state.isConnected)
            for later in Self.observations { #expect(Lifecycle.step(state, .observed(later)).1.isEmpty) }
            #expect(Lifecycle.step(state, .failed("late", .connection)).1.isEmpty)
        }
    }

    @Test(arguments: starts)
    func `state 5 never stays when the device is to go and nobody lives at the other end`(_ start: DeviceState) {
        let dead: [XenbusState?] = [nil, .unknown, .initialising, .closed]
        for now in Self.observations where now.backend == .closing && !now.isOnline && dead.contains(now.frontend) {
            let (state, last, _) = Self.settle(start, now)
            #expect(last.backend == .closed)
            #expect(!state.isConnected)
        }
    }

    @Test(arguments: starts)
    func `the volume is closed before 6 is written and queues end before the volume`(_ start: DeviceState) {
        for now in Self.observations {
            let (_, effects) = Lifecycle.step(start, .observed(now))
            if let closed = effects.firstIndex(of: .closeVolume), let ended = effects.firstIndex(of: .disconnect) {
                #expect(ended < closed)
            }
            guard let six = effects.firstIndex(of: .switchState(.closed)) else { continue }
            #expect(effects[..<six].contains(.closeVolume), "\(now)")
        }
    }

    /// They add only themselves: the update after a connection, and states 7 and 8.
    @Test(arguments: starts)
    func `live keys change nothing but what is theirs`(_ start: DeviceState) {
        for observation in Self.observations {
            var now = observation
            now.liveKeys = LiveKeys(frontend: ["wish": 1])
            let (state, effects) = Lifecycle.step(start, .observed(now))
            #expect(state.isConnected || state.liveKeys == nil)
            let (_, settled, history) = Self.settle(start, now)
            #expect(history.count <= 4, "\(now): \(history)")
            #expect(history.joined().filter { $0 == .update(liveKeys: LiveKeys(frontend: ["wish": 1])) }.count <= 1)
            let reconfigures = now.frontend == .reconfiguring || now.backend == .reconfigured
            if !reconfigures {
                #expect(
                    effects.filter { $0 != .update(liveKeys: LiveKeys(frontend: ["wish": 1])) }
                        == Lifecycle.step(start, .observed(observation)).1)
                #expect(settled.backend != .reconfigured)
            }
        }
    }

    @Test(arguments: starts)
    func `queues run exactly while the state says so`(_ start: DeviceState) {
        for now in Self.observations {
            let (state, effects) = Lifecycle.step(start, .observed(now))
            var running = start.isConnected
            for effect in effects {
                switch effect {
                case .connect(let keys), .adopt(let keys):
                    #expect(!running && keys == now.frontendKeys)
                    running = true
                default: break
                }
                if effect == .disconnect || effect == .suspend {
                    #expect(running)
                    running = false
                }
            }
            #expect(running == state.isConnected)
        }
    }

    @Test(arguments: [failed, condemned])
    func `a failed device is not served before both ends were closed`(_ start: DeviceState) {
        for now in Self.observations where now.backend == .closing || now.backend == .connected {
            let (_, effects) = Lifecycle.step(start, .observed(now))
            #expect(!effects.contains(where: Self.startsQueues))
        }
    }

    @Test func `a condemned device is served again only when it was created anew`() {
        let new: [XenbusState?] = [.unknown, .initialising, .initialised, .reconfiguring, .reconfigured]
        for now in Self.observations {
            if new.contains(now.backend) {
                #expect(Lifecycle.step(Self.condemned, .observed(now)).1.contains(.absolve))
                continue
            }
            let (_, _, history) = Self.settle(Self.condemned, now)
            #expect(!history.joined().contains(where: Self.startsQueues))
            #expect(!history.joined().contains(.switchState(.initWait)))
        }
    }

    @Test(arguments: starts)
    func `a failure is published once, stops the queues and ends in Closing unless closing had begun`(
        _ start: DeviceState
    ) {
        for now in Self.observations where now.backend != nil {
            var state = start
            state.observation = now
            let (next, effects) = Lifecycle.step(state, .failed("because", .connection))
            #expect(effects.filter { $0 == .publishError("because") }.count == 1)
            #expect(effects.contains(.disconnect) == start.isConnected)
            #expect(!next.isConnected && next.hasFailed)
            let closes = now.backend != .closing && now.backend != .closed
            #expect(effects.contains(.switchState(.closing)) == closes)
        }
    }
}
