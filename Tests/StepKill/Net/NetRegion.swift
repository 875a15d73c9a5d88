import CXen
import Descriptors
import NetBackend
import SharedRing
import XenWire

/// What outlives a process that serves a network interface. Behind the words:
///
///     the transmit ring and the receive ring, a page each
///     cells of 1024 bytes, for parts of packets from the guest
///     pages of receive buffers
///
/// and the TAP device.
@safe final class NetRegion: Region {
    /// Ring indices wrap soon after.
    static let firstIndex: UInt32 = 0xffff_fff8
    static let cells = 64
    static let cellBytes = 1024
    static let buffers = 32
    /// Which grants begin here: no response looks like a request that names one of these.
    static let firstCell: UInt32 = 0x7000_0000
    static let firstBuffer: UInt32 = 0x7100_0000
    private static let cellStart = start + 2 * 4096
    private static let bufferStart = cellStart + cells * cellBytes

    let tap: Tap

    init() throws {
        tap = try Tap()
        try super.init(
            bytes: Self.bufferStart + Self.buffers * 4096, journals: [Journal.headerSize + NetQueue.journalBytes])
        for ring in NetSide.allCases.map(ring) {
            for place in [XEN_RING_REQ_PROD, XEN_RING_RSP_PROD] {
                // The header of a ring's page.
                unsafe xen_store_relaxed(ring.base + Int(place), Self.firstIndex)
            }
            ring.askForEvent(Self.firstIndex &+ 1)
        }
    }

    /// Memory here and below is valid as long as the region.
    func ring(_ side: NetSide) -> NetSharedRing {
        let index = side == .transmit ? 0 : 1
        // A ring's page; a record's part of the journal's body.
        return unsafe NetSharedRing(
            base: base + Self.start + index * 4096, slotSize: side.slotSize,
            record: journals[0].base + Journal.headerSize + index * NetQueue.journalBytes / 2)
    }

    func cell(_ index: Int) -> UnsafeMutableRawPointer { unsafe base + Self.cellStart + index * Self.cellBytes }
    func buffer(_ index: Int) -> UnsafeMutableRawPointer { unsafe base + Self.bufferStart + index * 4096 }

    /// What a grant reference stands for.
    func memory(_ reference: UInt32) -> UnsafeMutableRawBufferPointer? {
        let (cell, buffer) = (Int(reference) - Int(Self.firstCell), Int(reference) - Int(Self.firstBuffer))
        if 0..<Self.cells ~= cell { return unsafe .init(start: self.cell(cell), count: Self.cellBytes) }
        if 0..<Self.buffers ~= buffer { return unsafe .init(start: self.buffer(buffer), count: 4096) }
        return nil
    }

    override func save(_ image: Image) {
        super.save(image)
        image.frames = tap.contents
    }

    override func restore(_ image: Image) {
        super.restore(image)
        tap.contents = image.frames
    }
}

enum NetSide: Int, CaseIterable {
    case transmit, receive

    var slotSize: Int { self == .transmit ? NetRing.transmitSlot : NetRing.receiveSlot }
    var reference: GrantReference { GrantReference(UInt32(1000 + rawValue)) }
}

/// A ring as it lies in memory, and the record of what is being answered on it (`AnswerRecord` says where everything lies).
@safe struct NetSharedRing {
    let base: UnsafeMutableRawPointer
    let slotSize: Int
    private let record: UnsafeMutableRawPointer

    /// - Parameters:
    ///   - base: the ring's page; like the record it outlives this value.
    init(base: UnsafeMutableRawPointer, slotSize: Int, record: UnsafeMutableRawPointer) {
        unsafe self.base = base
        self.slotSize = slotSize
        unsafe self.record = record
    }

    /// `req_prod`
    func showRequests(_ index: UInt32) { unsafe xen_store_release(base + Int(XEN_RING_REQ_PROD), index) }
    /// `rsp_event`
    func askForEvent(_ index: UInt32) { unsafe xen_store_release(base + Int(XEN_RING_RSP_EVENT), index) }
    /// `rsp_prod`
    var published: UInt32 {
        get { unsafe xen_load_acquire(base + Int(XEN_RING_RSP_PROD)) }
        nonmutating set { unsafe xen_store_release(base + Int(XEN_RING_RSP_PROD), newValue) }
    }

    /// A slot, whatever the index.
    func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe base + Int(XEN_RING_ENTRIES) + Int(index & (NetRing.slots - 1)) * slotSize
    }

    /// What the record says of itself.
    struct Note {
        var first: UInt32
        var count: UInt32
    }
    var note: Note {
        get {
            let tag = unsafe xen_load_relaxed64(record)
            return Note(first: UInt32(truncatingIfNeeded: tag >> 32), count: UInt32(truncatingIfNeeded: tag))
        }
        nonmutating set { unsafe xen_store_release64(record, UInt64(newValue.first) << 32 | UInt64(newValue.count)) }
    }

    /// The copy of the n-th request of the batch, below the ring's size.
    func copy(_ number: UInt32) -> UnsafeMutableRawPointer { unsafe record + 64 + Int(number) * slotSize }

    /// The guest waits for an event that it has asked for.
    var owesEvent: Bool { unsafe Int32(bitPattern: published &- xen_load_relaxed(base + Int(XEN_RING_RSP_EVENT))) >= 0 }

    /// Something is being answered.
    var isNoted: Bool { note.first == published && note.count > 0 }

    /// How many of a noted batch's slots hold responses: in their first eight bytes they differ from the requests.
    var written: Int {
        let note = note
        return (0..<min(note.count, NetRing.slots)).count { number in
            // Slots and copies have eight bytes at least.
            unsafe slot(note.first &+ number).loadUnaligned(as: UInt64.self)
                != copy(number).loadUnaligned(as: UInt64.self)
        }
    }
}
