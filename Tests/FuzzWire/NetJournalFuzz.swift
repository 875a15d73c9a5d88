import Descriptors
import Glibc
import NetBackend
import SharedRing
import XenWire
import Xenbus
import Xenstore

/// The journals of a network interface as a killed process might have left them, with bytes of one of them changed at will:
/// each is refused, or is this interface's; what is in it changes nothing but slots that wait, and settings are such as a guest
/// may have made.
final class NetJournalFuzz {
    private let records = Records()
    private let journals: NetJournals
    private let connection: NetConnection
    private let queue: FuzzedFile
    private let policy: FuzzedFile
    private let rings = [
        FuzzedRing(slots: NetRing.slots, of: NetRing.transmitSlot, at: 0),
        FuzzedRing(slots: NetRing.slots, of: NetRing.receiveSlot, at: NetQueue.journalBytes / 2),
    ]
    private let control = FuzzedRing(
        slots: NetRing.controlSlots, of: NetRing.controlSlot, copies: 1, at: PolicyRecord.controlOffset)
    private static let vm = "/vm/5b4f"

    init() throws {
        let interface = DeviceClass(
            backendType: "vif", frontendType: "vif", backend: DomainID(0), frontend: DomainID(5))
        let keys = [
            "request-rx-copy": "1", "feature-sg": "1", "tx-ring-ref": "8", "rx-ring-ref": "9", "event-channel": "3",
            "ctrl-ring-ref": "10", "event-channel-ctrl": "4",
        ]
        connection = try NetConnection.negotiate(keys.mapValues { XenstoreValue(Array($0.utf8)) }, NetOffer())
        journals = NetJournals(try interface.device(0), records)
        let made = try journals.make(connection, vm: Self.vm)
        for ring in rings { ring.note(in: made.queues[0]) }
        control.note(in: made.policy)
        fuzzStore(made.policy)
        // The records' tags, and what is in front of each copy's lists.
        queue = try records.fuzzed("0.queue0", heads: [0, NetQueue.journalBytes / 2].map { $0..<$0 + 8 })
        policy = try records.fuzzed(
            "0.policy",
            heads: [64..<76, 64 + 1024..<76 + 1024, PolicyRecord.controlOffset..<PolicyRecord.controlOffset + 8])
    }

    /// The first two bytes say how the rest is meant.
    func judge(_ input: UnsafeRawBufferPointer) {
        var input = unsafe FuzzInput(input)
        let (how, settings) = (input.byte(), input.byte())
        let place = RingPlace(&input)
        let isPolicy = how & 1 == 1
        let damaged = isPolicy ? policy : queue
        let length = how & 0xE0 == 0xE0 ? input.half() % damaged.file.count : nil
        queue.mend()
        policy.mend()
        chooseSettings(policy, copy: settings >> 3 & 1)
        damaged.damage(&input, page: how & 2 == 2 ? Int(how >> 2 & 1) : nil)
        if how & 8 == 0 { seal(damaged, isPolicy) }
        // Not always: it compares texts, which takes longer than all the rest.
        if length == nil && how & 16 == 0 && damaged.isOther { find() }
        do throws(JournalRefusal) {
            try damaged.withCut(to: length) { file throws(JournalRefusal) in
                let journal = try Journal(reading: file)
                _ = (journal.faults, journal.condemned, journal.mustGoAlone)
                guard isPolicy else { return rings.forEach { $0.judge(journal, place) } }
                control.judge(journal, place)
                try fuzzLoad(journal, Int(settings & 7) + 1)
            }
        } catch {
            _ = "\(error)"
        }
    }

    private func seal(_ damaged: FuzzedFile, _ isPolicy: Bool) {
        damaged.seal()
        if isPolicy { sealSettings(damaged) }
    }

    /// Whatever is found is this interface's.
    private func find() {
        guard let set = try? journals.find(connection, vm: Self.vm) else { return }
        precondition(set.policy.identity.says(policy.identity.facts), "another interface's settings")
        precondition(set.queues.map { $0.identity.says(queue.identity.facts) } == [true], "another interface's rings")
    }
}

/// Files without a directory.
private final class Records: InterfaceRecords {
    private var files: [String: MappedFile] = [:]
    let boot = "0c0ffee0"

    private func path(_ name: String) -> String { "/dev/shm/fuzz-\(name)-\(getpid())" }

    func journal(_ name: String, bytes: Int, making: Bool) throws(Fault) -> MappedFile? {
        guard making else { return files[name] }
        let file = try MappedFile(creating: path(name), bytes: bytes)
        _ = unsafe unlink(path(name))
        files[name] = file
        return file
    }

    func fuzzed(_ name: String, heads: [Range<Int>]) throws -> FuzzedFile {
        guard let file = files[name] else { throw Fault("find \(name)", errno: ENOENT) }
        return try FuzzedFile(file, path(name), heads: heads)
    }

    func settle(_ name: String) {}
    func hasRecord(_ name: String) -> Bool { files[name] != nil }
    func record(_ name: String) -> String? { nil }
    func setRecord(_ name: String, _ text: String?) {}
    func take(descriptor name: String) -> OwnedDescriptor? { nil }
    func keep(_ descriptor: Int32, as name: String) {}
    func forget(descriptors names: [String]) {}
}
