public import Descriptors
internal import NetFrames
package import SharedRing
internal import XenWire
package import Xenbus

/// Where an interface's records are kept: files of its domain's, whose names begin with the interface's number.
public protocol InterfaceRecords: AnyObject {
    /// A record that is written without a call: a new one, or nil if there is none.
    func journal(_ name: String, bytes: Int, making: Bool) throws(Fault) -> MappedFile?
    /// Gives a new journal its name, as a whole: nobody finds it half made.
    func settle(_ name: String) throws(Fault)
    /// There is such a record.
    func hasRecord(_ name: String) -> Bool
    /// What a short record says; nil if there is none, or it cannot be read.
    func record(_ name: String) -> String?
    /// Replaces it as a whole; nil: there is none any more.
    func setRecord(_ name: String, _ text: String?) throws(Fault)
    /// What an earlier process has left with whoever starts this program, once.
    func take(descriptor name: String) -> OwnedDescriptor?
    /// Leaves a descriptor for the next process, if there is somebody to leave it with.
    func keep(_ descriptor: Int32, as name: String)
    /// Has what was left under these names closed.
    func forget(descriptors names: [String])
    /// What tells this run of the host from others: journals do not outlive it.
    var boot: String { get }
}

/// The journals of one interface: a file for each queue, and one for what the guest has set.
package struct NetJournals {
    private let identity: DeviceIdentity
    private let records: any InterfaceRecords

    package init(_ identity: DeviceIdentity, _ records: any InterfaceRecords) {
        self.identity = identity
        self.records = records
    }

    /// Those of one connection.
    package struct Set {
        package var queues: [Journal]
        package let policy: Journal
    }

    /// Why rings that were served before are not served on.
    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }

    /// All records that an interface may have.
    static func names(of number: UInt32) -> [String] {
        // The one that says that there are others goes last.
        NetOffer.queueRange.map { "\(number).queue\($0 - 1)" }
            + ["\(number).policy", settingsName(of: number), tapName(of: number)]
    }

    /// The queues that an earlier process has served, and left.
    var left: Int { NetOffer.queueRange.prefix { records.hasRecord(queueName($0 - 1)) }.count }

    // MARK: the TAP device

    /// Says that there may be a TAP device that outlives the process. What is known of it stays.
    func noteDevice() throws(Fault) {
        if !records.hasRecord(tapName) { try records.setRecord(tapName, "") }
    }

    /// Says which one.
    func note(device index: Int32) throws(Fault) {
        try records.setRecord(tapName, TapRecord.text(index, boot: records.boot))
    }

    /// There is none any more.
    func forgetDevice() throws(Fault) { try records.setRecord(tapName, nil) }

    /// What the device is called, or is to be called.
    var deviceName: String {
        NetDevice.deviceName(
            identity.deviceClass.frontend.rawValue, identity.number, record: records.record(tapName),
            boot: records.boot)
    }

    private var tapName: String { Self.tapName(of: identity.number) }
    static func tapName(of number: UInt32) -> String { "\(number).tap" }

    // MARK: settings

    /// Keeps what the toolstack has said of the interface, as far as we go by it.
    func note(settings: NodeValues, vm: String?) throws(Fault) {
        try records.setRecord(
            Self.settingsName(of: identity.number), SettingsRecord.text(settings, of: place(vm)))
    }

    /// What an earlier process went by with this guest; nil if none has said so.
    func settings(vm: String?) -> NodeValues? {
        records.record(Self.settingsName(of: identity.number))
            .flatMap { SettingsRecord.nodes(in: $0, of: place(vm)) }
    }

    private static func settingsName(of number: UInt32) -> String { "\(number).settings" }

    // MARK: connections

    /// Those of rings of which nobody has said that they are served, but an earlier process may have begun to: frontends use
    /// them before our state is 4. Else new ones.
    package func findOrMake(_ connection: NetConnection, vm: String?) throws -> (set: Set, areFound: Bool) {
        do {
            return (try find(connection, vm: vm), true)
        } catch is JournalAbsence {
            return (try make(connection, vm: vm), false)
        }
    }

    /// New journals for rings from which nothing was taken, in the place of all older ones. Each takes an older one's place by
    /// itself: a guest that has made itself new rings is recognised by whatever journals there are.
    package func make(_ connection: NetConnection, vm: String?) throws(Fault) -> Set {
        // First: it does not say which rings are served, and with the last queue's all are there.
        let policy = try make(policyName, PolicyRecord.bytes, policyFacts(connection, vm)) { journal in
            // Before the journal can be found: there is none without settings.
            let nothingSet = ReceivePolicy(hash: HashSettings(queues: connection.queues.count))
            PolicyRecord(journal: journal).store(nothingSet)
        }
        var queues: [Journal] = []
        for queue in connection.queues.indices {
            queues.append(try make(queueName(queue), NetQueue.journalBytes, queueFacts(connection, queue, vm)))
        }
        try remove(from: queues.count)
        return Set(queues: queues, policy: policy)
    }

    /// - Parameter fill: what is to be in it before it has its name.
    private func make(
        _ name: String, _ bytes: Int, _ facts: JournalIdentity, _ fill: (Journal) -> Void = { _ in }
    ) throws(Fault) -> Journal {
        guard let file = try records.journal(name, bytes: Journal.headerSize + bytes, making: true) else {
            throw Fault("make the journal \(name)", errno: 2)
        }
        let journal = Journal(making: file, for: facts)
        fill(journal)
        try records.settle(name)
        return journal
    }

    /// Journals that an earlier process left; throws `JournalAbsence` if there are none.
    package func find(_ connection: NetConnection, vm: String?) throws -> Set {
        guard
            let policy = try find(
                policyName, PolicyRecord.bytes, policyFacts(connection, vm), vm, "what the guest has set")
        else { throw JournalAbsence.nothing("there is no journal of what the guest has set") }
        var set = Set(queues: [], policy: policy)
        for queue in connection.queues.indices {
            let facts = queueFacts(connection, queue, vm)
            guard let found = try find(queueName(queue), NetQueue.journalBytes, facts, vm, "queue \(queue)") else {
                // Some of a greater number than before, whose making was cut short.
                throw queue == 0 ? JournalAbsence.nothing("there is no journal of queue 0") : .otherRings
            }
            set.queues.append(found)
        }
        return set
    }

    /// Nil if there is none.
    private func find(
        _ name: String, _ bytes: Int, _ facts: JournalIdentity, _ vm: String?, _ what: String
    ) throws -> Journal? {
        guard let file = try records.journal(name, bytes: Journal.headerSize + bytes, making: false) else { return nil }
        let journal = try Journal(reading: file)
        if let difference = journal.identity.difference(from: place(vm)) {
            throw JournalAbsence.nothing("\(difference)")
        }
        guard journal.identity.difference(from: facts) == nil else { throw JournalAbsence.otherRings }
        guard journal.faults < Self.tooManyFaults else {
            throw Refusal(
                description: "\(what): \(journal.faults) processes in a row have ended for a fault of their own")
        }
        return journal
    }

    /// Each fault but the first two costs one packet; this many without one are the ring's.
    private static let tooManyFaults: UInt32 = 6

    /// Whoever comes later finds none.
    func remove() throws(Fault) {
        try records.setRecord(policyName, nil)
        try remove(from: 0)
        try records.setRecord(Self.settingsName(of: identity.number), nil)
    }

    private func remove(from first: Int) throws(Fault) {
        for queue in first..<NetOffer.queueRange.upperBound { try records.setRecord(queueName(queue), nil) }
    }

    private var policyName: String { "\(identity.number).policy" }
    private func queueName(_ queue: Int) -> String { "\(identity.number).queue\(queue)" }

    // MARK: identity

    /// The guest and its device. Numbers of domains are used again; what is behind `vm` is not.
    private func place(_ vm: String?) -> JournalIdentity {
        JournalIdentity([
            .init("boot", records.boot), .init("device", identity), .init("domain", vm ?? "unknown"),
        ])
    }

    private func queueFacts(_ connection: NetConnection, _ queue: Int, _ vm: String?) -> JournalIdentity {
        let rings = connection.queues[queue]
        return JournalIdentity(
            place(vm).facts + features(connection) + [
                .init("queue", queue), .init("ports", "\(rings.transmitPort) \(rings.receivePort)"),
                .init("rings", "\(rings.transmit) \(rings.receive)"),
            ])
    }

    private func policyFacts(_ connection: NetConnection, _ vm: String?) -> JournalIdentity {
        let control = connection.control.map { "\($0.ring) port \($0.port)" }
        return JournalIdentity(place(vm).facts + features(connection) + [.init("control", control ?? "none")])
    }

    /// What slots are made of follows from it.
    private func features(_ connection: NetConnection) -> [JournalIdentity.Fact] {
        let offloads = connection.offloads
        let flags = [
            connection.scatters, offloads.checksumV4, offloads.checksumV6, offloads.segmentationV4,
            offloads.segmentationV6,
        ]
        return [
            .init("queues", connection.queues.count),
            .init("features", flags.map { $0 ? "1" : "0" }.joined()),
        ]
    }
}
