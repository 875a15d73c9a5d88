import CXen
import Descriptors
import Foundation
import Loopback
import NetFrames
import SharedRing
import Telemetry
import Testing
import XenWire

@testable import NetBackend

/// A queue pair that may end at any moment: what outlives it, both rings and the journal, can be kept and put back as it
/// was at a call that the queue made.
private final class MortalQueue {
    let platform = ModelPlatform()
    let guest: GuestDomain
    let front: NetFrontQueue
    private let near: OwnedDescriptor
    private let far: OwnedDescriptor
    private let path: String
    private let transmitPage: GrantMapping
    private let receivePage: GrantMapping
    let file: MappedFile
    private(set) var queue: NetQueue?
    let clock = ModelClock()
    let limit = RateLimit()

    /// What a killed process leaves.
    struct Moment {
        var transmit: [UInt8]
        var receive: [UInt8]
        var journal: [UInt8]
    }

    private(set) var moments: [Moment] = []
    private var isWatched = false

    static let bytes = Journal.headerSize + NetQueue.journalBytes

    init(index: UInt32 = 0) throws {
        guest = try platform.createDomain(DomainID(5), pages: 2048, references: 2048)
        front = try NetFrontQueue(guest, backend: DomainID(0), isSplit: true, startingAt: index)
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        try #require(unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0)
        near = OwnedDescriptor(owning: ends[0])
        far = OwnedDescriptor(owning: ends[1])
        path = NSTemporaryDirectory() + "net-journal-\(UUID().uuidString)"
        file = try MappedFile(creating: path, bytes: Self.bytes)
        _ = Journal(making: file, for: JournalIdentity([]))
        let table = platform.openGrantTable()
        // Both live as long as this object.
        transmitPage = try table.map([front.references.transmit], of: guest.id, writable: true)
        receivePage = try table.map([front.references.receive], of: guest.id, writable: true)
    }

    deinit { unsafe unlink(path) }

    func start(recovers: Bool) throws {
        queue = nil
        let opened = try #require(try MappedFile(opening: path, bytes: Self.bytes))
        let grants = WatchedGrants(platform.openGrantTable()) { [unowned self] in note() }
        let rings = NetConnection.Rings(
            transmit: front.references.transmit, receive: front.references.receive,
            transmitPort: front.transmitPort.number, receivePort: front.receivePort.number)
        queue = try NetQueue(
            NetQueueConfiguration(
                name: "test", domain: guest.id, backend: DomainID(0), rings: rings, offloads: .all, scatters: true,
                limit: limit, journal: try Journal(reading: opened), recovers: recovers), grants: grants,
            transmitEvents: WatchedEvents { [unowned self] in note() },
            receiveEvents: WatchedEvents { [unowned self] in note() }, tap: near.number, clock: clock)
    }

    /// One turn, with all moments at which it might end.
    func turnWatched() {
        moments = [moment()]
        isWatched = true
        _ = queue?.turn()
        isWatched = false
    }

    private func note() { if isWatched { moments.append(moment()) } }

    private func moment() -> Moment {
        Moment(
            transmit: unsafe Array(UnsafeRawBufferPointer(start: transmitPage.base, count: 4096)),
            receive: unsafe Array(UnsafeRawBufferPointer(start: receivePage.base, count: 4096)),
            journal: unsafe Array(UnsafeRawBufferPointer(start: file.base, count: Self.bytes)))
    }

    /// The queue ends, and what it has done since is undone but for the frames that it has sent.
    func die(at moment: Moment) {
        queue = nil
        drain()
        unsafe transmitPage.base.copyMemory(from: moment.transmit, byteCount: 4096)
        unsafe receivePage.base.copyMemory(from: moment.receive, byteCount: 4096)
        unsafe file.base.copyMemory(from: moment.journal, byteCount: Self.bytes)
    }

    func settle() {
        for _ in 0..<1000 {
            // A socket holds less than a ring.
            drain()
            if queue?.turn() != true { return }
        }
    }

    /// All frames that the host got since the last call.
    func sent() -> [[UInt8]] {
        defer { kept = [] }
        drain()
        return kept
    }

    private var kept: [[UInt8]] = []

    private func drain() { kept += received() }

    private func received() -> [[UInt8]] {
        var (frames, bytes) = ([[UInt8]](), [UInt8](repeating: 0, count: 70_000))
        while true {
            let count = unsafe read(far.number, &bytes, bytes.count)
            guard count >= VirtioHeader.size else { return frames }
            frames.append(Array(bytes[VirtioHeader.size..<count]))
        }
    }

    func offer(_ frame: [UInt8]) {
        let bytes = [UInt8](repeating: 0, count: VirtioHeader.size) + frame
        #expect(unsafe write(far.number, bytes, bytes.count) == bytes.count)
    }

    var journal: Journal { get throws { try Journal(reading: file) } }
}

extension MortalQueue.Moment {
    /// The moment before the last publication: `rsp_prod` is what it was before.
    fileprivate func unpublished(since before: MortalQueue.Moment) -> MortalQueue.Moment {
        var moment = self
        let producer = Int(XEN_RING_RSP_PROD)..<Int(XEN_RING_RSP_PROD) + 4
        moment.transmit.replaceSubrange(producer, with: before.transmit[producer])
        moment.receive.replaceSubrange(producer, with: before.receive[producer])
        return moment
    }
}

private final class WatchedGrants: GrantTable {
    private let table: any GrantTable
    private let note: () -> Void

    init(_ table: any GrantTable, _ note: @escaping () -> Void) {
        self.table = table
        self.note = note
    }

    func map(_ references: [GrantReference], of domain: DomainID, writable: Bool) throws(Fault) -> GrantMapping {
        try table.map(references, of: domain, writable: writable)
    }
    func unmap(_ base: UnsafeMutableRawPointer, pages: Int) { unsafe table.unmap(base, pages: pages) }
    func copy(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int, _ direction: CopyDirection) -> Int {
        note()
        defer { note() }
        return unsafe table.copy(segments, count: count, direction)
    }
}

private final class WatchedEvents: EventChannel {
    private let note: () -> Void
    init(_ note: @escaping () -> Void) { self.note = note }
    let descriptor: Int32 = -1
    func notify() { note() }
    func drain() -> Bool { false }
    func unmask() {}
}

@Suite struct NetJournalTests {
    /// Frames of one slot and of many, with extra info and changes of the multicast list between them: three batches a turn.
    private static func fill(_ front: NetFrontQueue) -> [[UInt8]] {
        var frames: [[UInt8]] = []
        for round in 0..<3 {
            for seed in 0..<8 { frames.append(frame(60 + seed, round * 8 + seed)) }
            front.changeGroups(MACAddress(1, 0, 0x5E, 0, 0, UInt8(round)), joins: true)
            frames.append(frame(12_000, round))
            frames.append(frame(5000, round))
            for frame in frames.suffix(10) { front.send(frame) }
        }
        front.publish()
        return frames
    }

    /// What they are answered with.
    private let answers: [Int16: Int] = [0: 3 * (8 + 3 + 2 + 1), 1: 3]

    /// Each moment twice: as it was, and as if what was published in it had not been.
    private static func ends(_ moments: [MortalQueue.Moment]) -> [MortalQueue.Moment] {
        moments + moments.dropFirst().map { $0.unpublished(since: moments[0]) }
    }

    private static func countOfEnds(_ index: UInt32) throws -> Int {
        let mortal = try MortalQueue(index: index)
        try mortal.start(recovers: false)
        _ = fill(mortal.front)
        for size in [60, 9000, 1514] { mortal.offer(frame(size)) }
        mortal.turnWatched()
        return ends(mortal.moments).count
    }

    @Test(arguments: [UInt32(0), 0xFFFF_FFC0])
    func `whenever a process ends, every request is answered once, and sent`(index: UInt32) throws {
        let count = try Self.countOfEnds(index)
        #expect(count > 10)
        for end in 0..<count {
            let mortal = try MortalQueue(index: index)
            try mortal.start(recovers: false)
            let frames = Self.fill(mortal.front)
            mortal.turnWatched()
            let moments = Self.ends(mortal.moments)
            guard end < moments.count else { continue }
            mortal.die(at: moments[end])
            try mortal.start(recovers: true)
            mortal.settle()
            // It throws if an answer is not the next one's.
            try mortal.front.reap()
            #expect(mortal.front.statuses == answers, "end \(end)")
            let sent = mortal.sent()
            #expect(Set(sent) == Set(frames))
            #expect(sent.count <= 2 * frames.count)
            let more = Self.fill(mortal.front)
            mortal.settle()
            try mortal.front.reap()
            #expect(mortal.sent() == more)
        }
    }

    /// A process that is followed by one that is followed by another.
    @Test func `what was put back is put back again`() throws {
        let mortal = try MortalQueue()
        try mortal.start(recovers: false)
        let frames = Self.fill(mortal.front)
        mortal.turnWatched()
        for round in 0..<20 {
            let ends = Self.ends(mortal.moments)
            mortal.die(at: ends[(round * 7 + 3) % ends.count].unpublished(since: mortal.moments[0]))
            try mortal.start(recovers: true)
            mortal.turnWatched()
        }
        mortal.settle()
        try mortal.front.reap()
        #expect(mortal.front.statuses == answers)
        #expect(Set(mortal.sent()) == Set(frames))
    }

    /// What the rate limit keeps on the ring was copied, and not answered.
    @Test func `a part of what was copied is answered`() throws {
        for end in 0..<8 {
            let mortal = try MortalQueue()
            mortal.limit.set(TransferRate(bytes: 100_000, microseconds: 1_000_000))
            try mortal.start(recovers: false)
            let frames = Self.fill(mortal.front)
            mortal.turnWatched()
            let ends = Self.ends(mortal.moments)
            mortal.die(at: ends[end % ends.count])
            try mortal.start(recovers: true)
            for _ in 0..<200 {
                mortal.settle()
                mortal.clock.advance(by: 100_000_000)
            }
            try mortal.front.reap()
            #expect(mortal.front.statuses == answers)
            #expect(Set(mortal.sent()) == Set(frames))
        }
    }

    @Test(arguments: [UInt32(0), 0xFFFF_FFF8])
    func `whenever a process ends, every buffer is used once, in its order`(index: UInt32) throws {
        let offered = [60, 9000, 1514, 65_000, 64, 64, 64, 4096, 4097].enumerated().map { frame($1, $0) }
        let count = 40
        for end in 0..<count {
            let mortal = try MortalQueue(index: index)
            try mortal.start(recovers: false)
            for frame in offered { mortal.offer(frame) }
            mortal.turnWatched()
            let moments = Self.ends(mortal.moments)
            guard end < moments.count else {
                #expect(end > 4)
                break
            }
            mortal.die(at: moments[end])
            try mortal.start(recovers: true)
            mortal.settle()
            var taken = try mortal.front.take().map(\.bytes)
            #expect(taken.allSatisfy(offered.contains) && Set(taken).count == taken.count)
            // Enough to use each slot, those that the dead process had used among them.
            for round in 0..<30 {
                for frame in offered { mortal.offer(frame + [UInt8(round)]) }
                mortal.settle()
                taken = try mortal.front.take().map(\.bytes)
                #expect(taken == offered.map { $0 + [UInt8(round)] }, "end \(end), round \(round)")
            }
        }
    }

    // MARK: journals that lie

    @Test func `whatever lies in a journal, nothing but the guest's own slots is touched`() throws {
        var random = SystemRandomNumberGenerator()
        for round in 0..<300 {
            let mortal = try MortalQueue()
            _ = Self.fill(mortal.front)
            let body = unsafe UnsafeMutableRawBufferPointer(
                start: mortal.file.base + Journal.headerSize, count: NetQueue.journalBytes)
            for offset in body.indices { unsafe body[offset] = UInt8.random(in: 0...255, using: &random) }
            // Where the rings are, with a number of requests that is any, or absurd.
            let tags: [UInt64] = [UInt64.random(in: 0...300, using: &random), 256, 257, 0xFFFF_FFFF, 0x8000_0000]
            if round % 2 == 0 {
                unsafe body.storeBytes(of: tags[round % 5], as: UInt64.self)
                unsafe body.storeBytes(
                    of: tags[(round + 1) % 5], toByteOffset: NetQueueCore.recordBytes, as: UInt64.self)
            }
            try mortal.start(recovers: true)
            mortal.offer(frame(2000))
            mortal.settle()
            #expect(mortal.queue != nil)
        }
    }

    // MARK: faults

    /// As the handler of signals does.
    private static func fault(_ journal: Journal, alone: Bool) {
        let record = unsafe journal.faultRecord.assumingMemoryBound(to: UInt32.self)
        unsafe record[0] += 1
        if alone { unsafe record[2] = record[1] }
    }

    @Test func `a packet during which processes end is found and answered with an error`() throws {
        let mortal = try MortalQueue()
        try mortal.start(recovers: false)
        var frames = (0..<5).map { frame(100, $0) }
        frames.insert(frame(20_000), at: 3)
        for frame in frames { mortal.front.send(frame) }
        mortal.front.publish()
        let before = try mortal.journal
        for _ in 0..<2 {
            mortal.turnWatched()
            mortal.die(at: mortal.moments[2])
            Self.fault(before, alone: false)
            try mortal.start(recovers: true)
        }
        _ = mortal.sent()
        // One by one, to the fourth.
        for _ in 0..<3 { #expect(mortal.queue?.turn() == true) }
        #expect(mortal.sent() == Array(frames[0..<3]))
        mortal.turnWatched()
        mortal.die(at: mortal.moments[2])
        Self.fault(before, alone: true)
        #expect(before.condemned == 3 && before.faults == 3)
        _ = mortal.sent()
        try mortal.start(recovers: true)
        mortal.settle()
        #expect(mortal.sent() == Array(frames[4...]))
        try mortal.front.reap()
        #expect(mortal.front.statuses == [0: 5, -1: 5])
        #expect(mortal.queue?.cells.load(NetCounter.condemned.rawValue) == 1)
        mortal.front.send(frame(60))
        mortal.front.publish()
        mortal.settle()
        #expect(before.faults == 0)
        #expect(before.condemned == nil)
    }

    @Test func `one fault is chance, and forgotten when all goes well`() throws {
        let mortal = try MortalQueue()
        Self.fault(try mortal.journal, alone: false)
        try mortal.start(recovers: true)
        let frames = Self.fill(mortal.front)
        #expect(mortal.queue?.turn() == true)
        #expect(mortal.sent() == frames)
        #expect(try mortal.journal.faults == 0)
    }
}

@Suite struct PolicyRecordTests {
    private final class Kept {
        let path = NSTemporaryDirectory() + "net-policy-\(UUID().uuidString)"
        let file: MappedFile
        let journal: Journal

        init() throws {
            file = try MappedFile(creating: path, bytes: Journal.headerSize + PolicyRecord.bytes)
            journal = Journal(making: file, for: JournalIdentity([]))
            PolicyRecord(journal: journal).store(ReceivePolicy(hash: HashSettings(queues: 4)))
        }
        deinit { unsafe unlink(path) }

        var body: UnsafeMutableRawPointer { unsafe file.base + Journal.headerSize }
    }

    private static func group(_ last: Int) -> MACAddress { MACAddress(1, 0, 0x5E, 0, 0, UInt8(last)) }

    @Test func `what a guest has set is there for the next process`() throws {
        let kept = try Kept()
        let policy = try SharedReceivePolicy(keeping: kept.journal, queues: 4)
        for last in 0..<64 { #expect(policy.change { $0.change(.joinMulticast(Self.group(last))) }) }
        #expect(policy.change { $0.change(.leaveMulticast(Self.group(7))) })
        let hash = HashSettings(
            queues: 4, algorithm: .toeplitz, types: [.ipv4, .ipv6TCP], key: (0..<40).map { UInt8($0) },
            mapping: (0..<128).map { UInt8($0 % 4) })
        policy.change { $0.hash = hash }
        let next = try SharedReceivePolicy(keeping: kept.journal, queues: 4).current
        #expect(next.groups == Set((0..<64).filter { $0 != 7 }.map(Self.group)))
        #expect(next.hash == hash)
        #expect(throws: JournalRefusal.self) { try SharedReceivePolicy(keeping: kept.journal, queues: 3) }
    }

    @Test func `a change that was not written to its end is none`() throws {
        let kept = try Kept()
        let policy = try SharedReceivePolicy(keeping: kept.journal, queues: 1)
        #expect(policy.change { $0.change(.joinMulticast(Self.group(1))) })
        let before = unsafe Array(UnsafeRawBufferPointer(start: kept.body, count: PolicyRecord.bytes))
        #expect(policy.change { $0.change(.joinMulticast(Self.group(2))) })
        let after = unsafe Array(UnsafeRawBufferPointer(start: kept.body, count: PolicyRecord.bytes))
        // The word that says which copy counts comes last.
        for length in stride(from: 8, through: PolicyRecord.bytes, by: 97) {
            unsafe kept.body.copyMemory(
                from: Array(before[..<8]) + after[8..<length] + before[length...], byteCount: PolicyRecord.bytes)
            #expect(try SharedReceivePolicy(keeping: kept.journal, queues: 1).current.groups == [Self.group(1)])
        }
        unsafe kept.body.copyMemory(from: after, byteCount: PolicyRecord.bytes)
        #expect(
            try SharedReceivePolicy(keeping: kept.journal, queues: 1).current.groups
                == [Self.group(1), Self.group(2)])
    }

    @Test func `what is damaged is not believed`() throws {
        let kept = try Kept()
        let policy = try SharedReceivePolicy(keeping: kept.journal, queues: 1)
        #expect(policy.change { $0.change(.joinMulticast(Self.group(1))) })
        let good = unsafe Array(UnsafeRawBufferPointer(start: kept.body, count: PolicyRecord.bytes))
        for offset in stride(from: 64, to: 64 + 2048, by: 13) {
            var bytes = good
            bytes[offset] ^= 0x40
            unsafe kept.body.copyMemory(from: bytes, byteCount: bytes.count)
            guard let found = try? SharedReceivePolicy(keeping: kept.journal, queues: 1).current else { continue }
            #expect(found.groups == [Self.group(1)], "the copy that does not count, at \(offset)")
        }
    }

    /// The process ends behind the response and before its publication; the guest's page has changed meanwhile.
    @Test(arguments: [UInt32(0), 0xFFFF_FFFF])
    func `a control request that was being answered is answered once`(index: UInt32) throws {
        let kept = try Kept()
        let platform = ModelPlatform()
        let guest = try platform.createDomain(DomainID(5), pages: 16, references: 64)
        let front = try NetFrontControl(guest, backend: DomainID(0), startingAt: index)
        let table = platform.openGrantTable()
        let page = try table.map([front.reference], of: guest.id, writable: true)
        func ring(_ policy: SharedReceivePolicy, recovers: Bool) throws -> ControlRing {
            try ControlRing(
                front.reference, of: guest.id, policy: policy, grants: platform.openGrantTable(),
                events: WatchedEvents {}, recovers: recovers)
        }
        do {
            let first = try ring(try SharedReceivePolicy(keeping: kept.journal, queues: 4), recovers: false)
            front.put(7, 1)
            front.put(2, 15)
            front.publish()
            #expect(first.turn())
        }
        // The second one's answer was not published.
        let producer = unsafe xen_load_relaxed(page.base + Int(XEN_RING_RSP_PROD))
        unsafe xen_store_relaxed(page.base + Int(XEN_RING_RSP_PROD), producer &- 1)
        let policy = try SharedReceivePolicy(keeping: kept.journal, queues: 4)
        #expect(policy.current.hash.algorithm == .toeplitz)
        let next = try ring(policy, recovers: true)
        #expect(next.turn())
        #expect(!next.turn())
        #expect(try front.reap().map { [UInt32($0.type), $0.status] } == [[7, 0], [2, 0]])
        #expect(policy.current.hash.types == .all)
    }
}
