import CXen
import SharedRing

/// The in-flight table in the journal, seen from outside (`InFlightTable` says where everything lies): for telling where a
/// kill hit, and for mutants.
@safe struct JournaledTable {
    private let base: UnsafeMutableRawPointer
    private let entries: Int

    /// - Parameter base: a table of so many entries, which outlives this value.
    init(_ base: UnsafeMutableRawPointer, entries: Int) {
        unsafe self.base = base
        self.entries = entries
    }

    var all: [Entry] { (0..<entries).map { unsafe Entry(base + 128 + $0 * 128) } }

    /// `rsp_prod` as noted last.
    var committed: UInt32 {
        get { unsafe xen_load_relaxed(base + 16) }
        nonmutating set { unsafe xen_store_release(base + 16, newValue) }
    }
    /// `req_cons`, extended, as noted last.
    var consumed: UInt64 {
        get { unsafe xen_load_relaxed64(base + 24) }
        nonmutating set { unsafe xen_store_release64(base + 24, newValue) }
    }

    @safe struct Entry {
        private let base: UnsafeMutableRawPointer

        fileprivate init(_ base: UnsafeMutableRawPointer) { unsafe self.base = base }

        private var tag: UInt64 {
            get { unsafe xen_load_relaxed64(base) }
            nonmutating set { unsafe xen_store_release64(base, newValue) }
        }
        var state: InFlightTable.State? {
            get { InFlightTable.State(rawValue: tag & 3) }
            nonmutating set { tag = tag & ~3 | (newValue?.rawValue ?? 3) }
        }
        var sequence: UInt64 {
            get { tag >> 2 }
            nonmutating set { tag = newValue << 2 | tag & 3 }
        }
        var response: UInt32 { unsafe xen_load_relaxed(base + 8) }
        var status: Int16 { unsafe (base + 12).load(as: Int16.self) }
        var isIssued: Bool {
            get { unsafe (base + 14).load(as: UInt8.self) != 0 }
            nonmutating set { unsafe base.storeBytes(of: newValue ? 1 : 0, toByteOffset: 14, as: UInt8.self) }
        }
        /// 112 bytes.
        var request: UnsafeMutableRawPointer { unsafe base + 16 }
    }
}

/// Between which steps of Tests/Models/crash.pml a kill hit.
enum Window: Int, CaseIterable {
    /// R0-R6: not all queues are made.
    case recovery
    /// F2-F3: a request is ours, and that is not noted.
    case taking
    /// P1-P3: answers are written and not visible.
    case answering
    /// P3-P4: answers are visible and not committed.
    case publishing
    /// P4-P5: answers are committed, and their entries not free.
    case releasing
    /// D1-P1: a write is under way, or was done.
    case issued
    /// Requests are in flight that change nothing.
    case inFlight
    case idle

    var isTelling: Bool { [.taking, .answering, .publishing, .releasing].contains(self) }

    init(_ region: BlockRegion, _ queue: Int) {
        let published = region.published(queue)
        let table = region.table(queue)
        let entries = table.all
        let answered = entries.filter { $0.state == .answered }
        self =
            if !region.hasRecovered {
                .recovery
            } else if answered.contains(where: { Int32(bitPattern: $0.response &- published) >= 0 }) {
                .answering
            } else if published != table.committed {
                .publishing
            } else if !answered.isEmpty {
                .releasing
            } else if entries.contains(where: { $0.state == .inFlight && $0.sequence >= table.consumed }) {
                .taking
            } else if entries.contains(where: { $0.state == .inFlight && $0.isIssued }) {
                .issued
            } else if entries.contains(where: { $0.state == .inFlight }) {
                .inFlight
            } else {
                .idle
            }
    }
}
