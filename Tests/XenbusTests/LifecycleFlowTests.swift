import Testing
import Xenbus
import Xenstore

/// The named flows, played out: a toolstack and a guest change the observation, the device follows.
struct LifecycleFlowTests {
    /// A device and the xenstore around it.
    struct World {
        var state = DeviceState()
        var now: Observation
        /// The last own states written, in order.
        var written: [XenbusState] = []
        var effects: [Effect] = []

        init(own: XenbusState?, frontend: XenbusState?, hotplug: HotplugStatus = .absent, script: Bool = true) {
            now = Observation(
                backend: own, isOnline: true, hotplug: hotplug, hasScript: script, frontend: frontend,
                frontendKeys: ["ring-ref": 8])
            run()
        }

        /// A device whose failure an earlier process has recorded, with a frontend that is ready.
        init(own: XenbusState, failed: Bool) {
            state = Lifecycle.step(DeviceState(), .failed("a flush failed", .device)).0
            now = Observation(
                backend: own, isOnline: true, hotplug: .connected, hasScript: true, frontend: .initialised,
                frontendKeys: [:])
            run()
        }

        /// A change by somebody else, and everything that follows from it.
        mutating func change(_ change: (inout Observation) -> Void) {
            change(&now)
            run()
        }

        mutating func fail(_ scope: FailureScope) {
            apply(.failed("broken", scope))
            run()
        }

        private mutating func run() {
            while apply(.observed(now)) {}
        }

        @discardableResult
        private mutating func apply(_ event: DeviceEvent) -> Bool {
            let (next, effects) = Lifecycle.step(state, event)
            state = next
            self.effects += effects
            for case .switchState(let target) in effects {
                now.backend = target
                written.append(target)
            }
            return !effects.isEmpty
        }

        /// Forgets what has been written so far.
        mutating func mark() {
            written = []
            effects = []
        }

        static var connected: World {
            var world = World(own: .initialising, frontend: .initialising)
            world.change { $0.hotplug = .connected }
            world.change { $0.frontend = .initialised }
            world.change { $0.frontend = .connected }
            world.mark()
            return world
        }
    }

    @Test func `first connect: transport keys and 2 before hotplug, 4 only after it`() {
        var world = World(own: .initialising, frontend: .initialising)
        #expect(world.effects == [.closeVolume, .absolve, .publishTransportKeys, .switchState(.initWait)])
        world.change { $0.frontend = .initialised }
        #expect(world.written == [.initWait])
        world.change { $0.hotplug = .pending }
        #expect(world.written == [.initWait])
        world.mark()
        world.change { $0.hotplug = .connected }
        #expect(
            world.effects == [
                .connect(frontendKeys: ["ring-ref": 8]), .publishDeviceKeys, .switchState(.connected),
            ])
        world.change { $0.frontend = .connected }
        #expect(world.written == [.connected])
    }

    @Test func `a device without a script waits for nobody`() {
        let world = World(own: .initialising, frontend: .initialised, script: false)
        #expect(world.written == [.initWait, .connected])
    }

    @Test func `a failed script keeps the device in InitWait`() {
        var world = World(own: .initialising, frontend: .initialised)
        world.change { $0.hotplug = .failed }
        #expect(world.now.backend == .initWait && !world.state.isConnected)
    }

    @Test(arguments: 1...3)
    func `a frontend closes and comes back any number of times`(_ times: Int) {
        var world = World.connected
        for _ in 0..<times {
            world.mark()
            world.change { $0.frontend = .closing }
            #expect(world.effects == [.disconnect, .switchState(.closing)])
            world.change { $0.frontend = .closed }
            world.change { $0.frontend = .initialising }
            world.change { $0.frontend = .initialised }
            world.change { $0.frontend = .connected }
            #expect(world.written == [.closing, .closed, .initWait, .connected])
            #expect(world.state.isConnected)
        }
    }

    @Test func `kexec: a frontend back at 1 under a connected backend goes through 6 to 2`() {
        var world = World.connected
        world.change { $0.frontend = .initialising }
        #expect(
            world.effects == [
                .disconnect, .closeVolume, .switchState(.closed), .closeVolume, .publishTransportKeys,
                .switchState(.initWait),
            ])
    }

    @Test func `hot-unplug with a live frontend lets it close in its own time`() {
        var world = World.connected
        world.change {
            $0.backend = .closing
            $0.isOnline = false
        }
        #expect(world.effects.isEmpty && world.state.isConnected)
        world.change { $0.frontend = .closing }
        #expect(world.effects == [.disconnect])
        world.change { $0.frontend = .closed }
        #expect(world.written == [.closed])
        world.change { $0.backend = nil }
        #expect(world.state.isForgotten)
    }

    @Test(arguments: [nil, .unknown, .initialising, .closed] as [XenbusState?])
    func `hot-unplug without a live frontend goes to 6 at once`(_ frontend: XenbusState?) {
        var world = World(own: .initialising, frontend: .initialising)
        world.mark()
        world.change {
            $0.backend = .closing
            $0.isOnline = false
            $0.frontend = frontend
        }
        #expect(world.written == [.closed])
        world.change { $0.frontend = .initialising }
        #expect(world.written == [.closed])
    }

    @Test func `forced removal: the frontend directory goes first`() {
        var world = World.connected
        world.change { $0.frontend = nil }
        #expect(world.effects == [.disconnect, .closeVolume, .switchState(.closed)])
    }

    @Test func `surprise removal: the backend directory vanishes and nothing is written`() {
        var world = World.connected
        world.change { $0.backend = nil }
        #expect(world.effects == [.disconnect, .closeVolume, .forget])
    }

    @Test func `a resumed guest republishes other rings while connected`() {
        var world = World.connected
        world.change {
            $0.frontend = .initialised
            $0.frontendKeys = ["ring-ref": 9]
        }
        #expect(
            world.effects == [.suspend, .connect(frontendKeys: ["ring-ref": 9]), .publishDeviceKeys])
        #expect(world.now.backend == .connected)
        world.change { $0.frontend = .connected }
        #expect(world.effects.count == 3)
    }

    @Test func `a 4 that was not written is written again, with what belongs to it`() {
        var world = World.connected
        world.change { $0.backend = .initWait }
        #expect(
            world.effects == [
                .suspend, .connect(frontendKeys: ["ring-ref": 8]), .publishDeviceKeys, .switchState(.connected),
            ])
    }

    @Test func `a guest that wants to be reconfigured before it has seen 4 gets its 8`() {
        var world = World(own: .initialising, frontend: .initialising)
        world.change {
            $0.frontend = .reconfiguring
            $0.liveKeys = LiveKeys(frontend: ["headroom": 256])
        }
        #expect(world.written == [.initWait])
        world.change { $0.hotplug = .connected }
        #expect(world.written == [.initWait, .connected, .reconfigured])
        world.change { $0.frontend = .connected }
        #expect(world.now.backend == .connected && world.state.isConnected)
    }

    @Test func `rings of an earlier process are closed once, also when the script came late`() {
        var world = World(own: .initWait, frontend: .initialised, hotplug: .pending)
        #expect(world.effects == [.publishTransportKeys])
        world.change { $0.frontend = .initialising }
        world.change { $0.frontend = .initialised }
        #expect(world.effects == [.publishTransportKeys, .closeVolume])
    }

    @Test func `a new process finds a guest that started over before anybody said 4`() {
        let world = World(own: .initWait, frontend: .initialising, hotplug: .connected)
        #expect(world.effects == [.closeVolume, .publishTransportKeys])
    }

    @Test func `a new process takes over a connected device without writing a state`() {
        let world = World(own: .connected, frontend: .connected, hotplug: .connected)
        #expect(world.written.isEmpty && world.state.isConnected)
    }

    @Test func `a new process serves a guest whose disk is being unplugged`() {
        var world = World(own: .initWait, frontend: .connected)
        world = World(own: .closing, frontend: .connected, hotplug: .connected)
        #expect(!world.state.isConnected)
        world.change { $0.isOnline = false }
        #expect(world.written.isEmpty && world.state.isConnected)
        world.change { $0.frontend = .closed }
        #expect(world.written == [.closed])
    }

    @Test func `a device that is created again in the place of one that is served starts over`() {
        var world = World.connected
        world.change {
            $0.backend = .initialising
            $0.frontend = .initialising
            $0.hotplug = .absent
        }
        #expect(
            world.effects == [
                .disconnect, .closeVolume, .absolve, .publishTransportKeys, .switchState(.initWait),
            ])
    }

    @Test func `a fatal error closes the connection and a frontend that starts over is served again`() {
        var world = World.connected
        world.fail(.connection)
        #expect(world.effects == [.disconnect, .publishError("broken"), .switchState(.closing)])
        world.mark()
        world.change { $0.frontend = .closing }
        world.change { $0.frontend = .closed }
        world.change { $0.frontend = .initialising }
        world.change { $0.frontend = .initialised }
        #expect(world.written == [.closed, .initWait, .connected])
    }

    @Test func `a device failed for good stays closed`() {
        var world = World.connected
        world.fail(.device)
        world.change { $0.frontend = .closed }
        world.change { $0.frontend = .initialising }
        world.change { $0.frontend = .initialised }
        #expect(world.now.backend == .closed && !world.state.isConnected)
    }

    @Test(arguments: [XenbusState.initWait, .connected, .closing, .closed])
    func `a new process that knows of the failure does not serve the device`(_ own: XenbusState) {
        var world = World(own: own, failed: true)
        #expect(world.written == (own == .initWait || own == .connected ? [.closing] : []))
        world.change { $0.frontend = .closed }
        world.change { $0.isOnline = false }
        #expect(world.now.backend == .closed && !world.state.isConnected)
    }

    @Test func `a device that is created anew has nothing to do with the one that failed in its place`() {
        let world = World(own: .initialising, failed: true)
        #expect(world.effects.contains(.absolve))
        #expect(world.written == [.initWait, .connected])
    }

    @Test(
        arguments: [
            ("0", .unknown), ("4", .connected), ("8", .reconfigured), ("9", .unknown), ("", .unknown), ("44", .unknown),
            ("-1", .unknown), (" 4", .unknown), ("4\0", .unknown), ("x", .unknown), ("\u{FFFD}", .unknown),
        ] as [(String, XenbusState)])
    func `the text of a state node`(_ text: String, _ state: XenbusState) {
        #expect(XenbusState(text: text) == state)
    }

    @Test func `state texts are their numbers`() {
        #expect(XenbusState.allCases.map(\.text).joined() == "012345678")
    }
}
