internal import CXen
internal import Descriptors

/// A domain's memory with its grant table, and the records of who copies from it, as one process has them mapped.
@safe final class DomainMemory: Sendable {
    /// The sizes that the processes which share a domain's memory must agree on.
    struct Size: Equatable, Sendable {
        let pages: UInt32
        let references: UInt32

        /// The frames at the start that hold the grant table.
        var tableFrames: UInt32 { (references &+ 511) / 512 }
        var bytes: Int { Int(pages) << Int(XEN_PAGE_SHIFT_BITS) }
    }

    let size: Size
    let memory: SharedMemory
    let area: SharedMemory
    let view: DomainView
    let records: CopyRecords

    /// A new domain's memory.
    convenience init(_ size: Size) throws(Fault) {
        let memory = try SharedMemory(name: "domain", bytes: size.bytes)
        try self.init(size, memory, SharedMemory(name: "copies", bytes: CopyRecords.bytes))
    }

    /// Memory that `memory` and `area` already hold.
    init(_ size: Size, _ memory: SharedMemory, _ area: SharedMemory) throws(Fault) {
        // Both views live no longer than the mappings, which this object keeps.
        unsafe view = DomainView(base: memory.base, pages: size.pages, references: size.references)
        unsafe records = CopyRecords(base: area.base)
        self.size = size
        self.memory = memory
        self.area = area
    }
}
