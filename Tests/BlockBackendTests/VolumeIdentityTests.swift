import Descriptors
import SharedRing
import Testing

@testable import BlockBackend

struct VolumeIdentityTests {
    private static let mine = VolumeIdentity(volume: "device 1792", data: "file 12 on 64", path: "/images/disk")

    private static func journal(_ facts: [String: String]) -> JournalIdentity {
        JournalIdentity(facts.map { .init($0.key, $0.value) })
    }

    @Test func whatItSaysOfItselfIsTheSame() {
        #expect(Self.mine.difference(from: JournalIdentity(Self.mine.facts)) == nil)
    }

    /// A disk image may have been moved.
    @Test func aPathTellsNothing() {
        let facts = ["volume": "device 1792", "data": "file 12 on 64", "path": "/elsewhere"]
        #expect(Self.mine.difference(from: Self.journal(facts)) == nil)
    }

    /// A loop device that was served as its file, and is not any more.
    @Test func theSameVolumeElsewhereIsAnother() {
        let facts = ["volume": "device 1792", "data": "device 1792", "path": "/dev/loop0"]
        let difference = Self.mine.difference(from: Self.journal(facts))
        #expect(difference == .otherRing("data", found: "device 1792", expected: "file 12 on 64"))
    }

    @Test func earlierVersionsDidNotSayWhereTheDataIs() {
        #expect(Self.mine.difference(from: Self.journal(["volume": "device 1792"])) == nil)
        #expect(Self.mine.difference(from: Self.journal(["volume": "device 1"])) != nil)
        #expect(VolumePlace(Self.journal(["volume": "device 1792"])) == nil)
    }

    @Test func anotherFileInThePlaceIsNotOpened() throws {
        let facts = ["volume": "x", "data": "file 1 on 1", "path": "/etc/hostname"]
        let place = try #require(VolumePlace(Self.journal(facts)))
        #expect(throws: Fault.self) { _ = try place.open().number }
    }
}
