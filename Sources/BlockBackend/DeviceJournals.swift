internal import Descriptors
internal import SharedRing
internal import XenWire
internal import Xenbus

/// The journals of one device's rings, a file for each.
struct DeviceJournals {
    private let identity: DeviceIdentity
    private let records: any DeviceRecords

    init(_ identity: DeviceIdentity, _ records: any DeviceRecords) {
        self.identity = identity
        self.records = records
    }

    /// Why rings that were served before are not served on.
    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }

    /// An earlier process was killed before it could record that a flush had failed: nobody knows what is on the disk.
    struct FlushFailure: Error, CustomStringConvertible {
        let fault: Fault
        var description: String { "a flush failed in an earlier process: \(fault)" }
    }

    /// Those of rings of which nobody has said that they are served, but an earlier process may have begun to; else new ones.
    func findOrMake(
        _ connection: Connection, volume: VolumeIdentity, vm: String?
    ) throws -> (journals: [Journal], areFound: Bool) {
        do {
            return (try find(connection, volume: volume, vm: vm), true)
        } catch is JournalAbsence {
            return (try make(connection, volume: volume, vm: vm), false)
        }
    }

    /// New journals for rings from which nothing was taken, in the place of all older ones. Each takes an older one's place by
    /// itself: whoever is killed meanwhile leaves journals of other rings, which is what the guest has made itself.
    func make(_ connection: Connection, volume: VolumeIdentity, vm: String?) throws(Fault) -> [Journal] {
        var journals: [Journal] = []
        for queue in connection.rings.indices {
            guard let file = try records.journal(name(queue), bytes: bytes(connection, queue), making: true) else {
                throw Fault("make the journal \(name(queue))", errno: 2)
            }
            journals.append(Journal(making: file, for: facts(connection, queue, volume: volume, vm: vm)))
            try records.settle(name(queue))
        }
        try remove(from: journals.count)
        return journals
    }

    /// Journals that an earlier process left; throws `JournalAbsence` if there are none.
    func find(_ connection: Connection, volume: VolumeIdentity, vm: String?) throws -> [Journal] {
        // Of any rings that this guest has had.
        if let fault = flushFailure(of: place(vm)) { throw FlushFailure(fault: fault) }
        var journals: [Journal] = []
        for queue in connection.rings.indices {
            // Of any size: that of other rings may be another.
            guard let file = try records.journal(name(queue), bytes: nil, making: false) else {
                throw journals.isEmpty
                    ? JournalAbsence.nothing("there is no journal of what is in flight") : .otherRings
            }
            let journal = try Journal(reading: file)
            if let difference = journal.identity.difference(from: place(vm)) {
                throw JournalAbsence.nothing("\(difference)")
            }
            if journal.identity.difference(from: ring(connection, queue)) != nil { throw JournalAbsence.otherRings }
            guard file.count == bytes(connection, queue) else { throw JournalRefusal.notAJournal("its size") }
            try checkVolume(journal, volume)
            try checkFaults(journal, queue)
            journals.append(journal)
        }
        // Only when all of them are idle: else the other queues' journals would say another disk than this one's.
        for queue in connection.rings.indices where volume.difference(from: journals[queue].identity) != nil {
            let facts = facts(connection, queue, volume: volume, vm: vm)
            journals[queue] = try renew(journals[queue], queue, bytes(connection, queue), facts)
        }
        return journals
    }

    /// What is in flight must not be done on another disk, nor on the same one past what is still under way to it; with
    /// nothing in flight it may have been exchanged.
    private func checkVolume(_ journal: Journal, _ volume: VolumeIdentity) throws(JournalRefusal) {
        guard let difference = volume.difference(from: journal.identity), InFlightTable.hasOpen(journal) else { return }
        throw difference
    }

    /// Somebody has begun to serve the disk.
    var exist: Bool { !found().isEmpty }

    /// Where something may be under way that an earlier process has started and nobody has followed.
    func placesInUse() -> Set<VolumePlace> {
        Set(found().filter { InFlightTable.hasOpen($0) }.compactMap { VolumePlace($0.identity) })
    }

    /// With what a flush failed in an earlier process, which may have been killed before it could record that.
    func flushFailure(of guest: JournalIdentity = JournalIdentity([])) -> Fault? {
        found().filter { $0.identity.difference(from: guest) == nil }.compactMap(\.flushFailure).first
            .map { Fault("make writes durable", errno: $0) }
    }

    /// All journals of the device that can be read, of whichever rings.
    private func found() -> [Journal] {
        (0..<ConnectionOffer.queueRange.upperBound).compactMap { queue in
            guard let file = try? records.journal(name(queue), bytes: nil, making: false) else { return nil }
            return try? Journal(reading: file)
        }
        .filter { $0.identity["boot"] == records.boot }
    }

    /// The same journal with other facts, in the place of the old one.
    private func renew(
        _ old: Journal, _ queue: Int, _ bytes: Int, _ facts: JournalIdentity
    ) throws(Fault) -> Journal {
        guard let file = try records.journal(name(queue), bytes: bytes, making: true) else {
            throw Fault("make the journal \(name(queue))", errno: 2)
        }
        let new = Journal(making: file, for: facts)
        // Both files have the same size, and nobody else uses either.
        unsafe new.body.copyMemory(from: UnsafeRawBufferPointer(old.body))
        try records.settle(name(queue))
        return new
    }

    private func checkFaults(_ journal: Journal, _ queue: Int) throws(Refusal) {
        guard journal.faults >= Self.tooManyFaults else { return }
        throw Refusal(
            description: "queue \(queue): \(journal.faults) processes in a row have ended for a fault of their own")
    }

    /// Each fault but the first two costs one request; this many without one are the ring's.
    private static let tooManyFaults: UInt32 = 6

    /// Rings are served without any: journals of older ones must not be what the next process finds.
    func giveUp() throws -> [Journal] {
        if let fault = flushFailure() { throw FlushFailure(fault: fault) }
        try remove()
        return []
    }

    /// Whoever comes later finds none.
    func remove() throws(Fault) { try remove(from: 0) }

    private func remove(from first: Int) throws(Fault) {
        for queue in first..<ConnectionOffer.queueRange.upperBound { try records.setRecord(name(queue), nil) }
    }

    private func name(_ queue: Int) -> String { "\(identity.number).queue\(queue)" }

    private func bytes(_ connection: Connection, _ queue: Int) -> Int {
        let entries = Int(connection.abi.entries(pages: connection.rings[queue].references.count))
        return (Journal.headerSize + InFlightTable.bytes(entries: entries) + 4095) / 4096 * 4096
    }

    // MARK: identity

    private func facts(
        _ connection: Connection, _ queue: Int, volume: VolumeIdentity, vm: String?
    ) -> JournalIdentity {
        JournalIdentity(place(vm).facts + ring(connection, queue).facts + volume.facts + [.init("queue", queue)])
    }

    /// The guest and its device. Numbers of domains are used again; what is behind `vm` is not.
    private func place(_ vm: String?) -> JournalIdentity {
        JournalIdentity([
            .init("boot", records.boot), .init("device", identity), .init("domain", vm ?? "unknown"),
        ])
    }

    private func ring(_ connection: Connection, _ queue: Int) -> JournalIdentity {
        let ring = connection.rings[queue]
        return JournalIdentity([
            .init("queues", connection.rings.count), .init("protocol", "\(connection.abi)"),
            .init("port", ring.port), .init("ring", ring.references.map { "\($0)" }.joined(separator: " ")),
        ])
    }
}
