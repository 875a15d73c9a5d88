import Descriptors
import Foundation
import Loopback
import Testing

/// `xen-loopback net` with the real daemon, every frame compared where it arrives. Needs root, for a network namespace.
@Suite(.enabled(if: NetWorld.isPossible, "SKIPPED: root, /dev/net/tun, unshare, nsenter and ip are needed"))
struct NetRunTests {
    /// On a thread of its own: a run leaves its thread in another network.
    private func run(_ load: NetLoad) throws -> NetReport {
        let path = (World.daemonPath as NSString).deletingLastPathComponent + "/xen-netbackd"
        let setting = RunSetting(daemon: path, temporary: NSTemporaryDirectory())
        let result = try Handover<Result<NetReport, LoopbackError>>()
        let thread = try JoinableThread(name: "net-run") {
            result.give(Result { () throws(LoopbackError) in try NetRun(load, setting) { false }.run() })
        }
        let report = result.take()
        thread.join()
        return try report.get()
    }

    @Test(arguments: NetLoad.Direction.allCases, [(62, false), (64, false), (1514, false), (65_226, true)])
    func `every frame arrives as it was sent`(direction: NetLoad.Direction, kind: (bytes: Int, large: Bool)) throws {
        let report = try run(
            NetLoad(
                direction: direction, frameBytes: kind.bytes, isSegmented: kind.large, amount: .frames(1001),
                verifies: true, seed: 3))
        #expect(report.frames == 1001 && report.verified == 1001 && report.refused == 0)
    }

    @Test func `several queues carry frames at once`() throws {
        let report = try run(
            NetLoad(
                direction: .toTap, frameBytes: 300, queues: 3, depth: 7, amount: .frames(2000), verifies: true))
        #expect(report.frames == 2000 && report.verified == 2000)
    }

    @Test(arguments: NetLoad.Direction.allCases)
    func `a daemon that is killed costs no more than what it had in hand`(direction: NetLoad.Direction) throws {
        let report = try run(
            NetLoad(
                direction: direction, frameBytes: 600, amount: .nanoseconds(2_000_000_000), verifies: true,
                killNanoseconds: 30_000_000))
        let kills = UInt64(report.kills?.kills ?? 0)
        #expect(kills > 3 && report.refused == 0)
        // From the guest nothing is lost; to it, a burst that waits in the TAP device goes with it.
        #expect(report.doubled <= kills * 256)
        #expect(report.lost <= (direction == .toTap ? 0 : kills * 400))
        #expect(report.verified > 1000)
    }
}
