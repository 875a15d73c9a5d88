import Descriptors
import Glibc
import Testing

@testable import BlockBackend

@Test(arguments: [
    (VolumeError("/dev/vg/disk", "does not exist") as any Error, true),
    (Fault("start a thread", errno: EAGAIN), true), (Fault("mmap", errno: ENOMEM), true),
    (Fault("open", errno: ENFILE), true), (Fault("open", errno: EMFILE), true),
    (Fault("map the ring", errno: EINVAL), false), (Fault("lock the volume", errno: ENOLCK), false),
    (DeviceJournals.Refusal(description: "there is none"), false),
])
func whatMayComeBackIsWaitedForAMinute(error: any Error, may: Bool) {
    let second: UInt64 = 1_000_000_000
    let attempt = PostponedAdoption([:], [:], adopts: true, since: 7 * second)
    #expect(attempt.mayGoOn(after: error, now: 7 * second) == may)
    #expect(attempt.mayGoOn(after: error, now: 66 * second) == may)
    #expect(!attempt.mayGoOn(after: error, now: 67 * second))
}
