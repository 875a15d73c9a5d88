import CXen
import Descriptors
import Glibc
import SharedRing
import XenWire

/// What outlives a process that serves a disk. Behind the words:
///
///     the rings, a page each
///     the disk, 16 sectors
///     which discard it is, u32 for each first sector and number of sectors
///     the guest's pages, one for each request that may be open
@safe final class BlockRegion: Region {
    /// Of each ring.
    static let entries: UInt32 = 32
    static let sectors = 16
    static let firstReference = GrantReference(1000)
    static let sectorBytes = Int(Sector.size)
    /// Ring indices and sequences wrap soon after.
    static let firstIndex: UInt32 = 0xffff_fff4

    let queues: Int
    private let diskStart: Int
    private let discardStart: Int
    private let pagesStart: Int

    init(queues: Int) throws {
        self.queues = queues
        diskStart = Self.start + queues * 4096
        discardStart = diskStart + Self.sectors * Self.sectorBytes
        pagesStart = discardStart + 4096
        try super.init(
            bytes: pagesStart + queues * Int(Self.entries) * 4096,
            journals: Array(repeating: 12288, count: queues))
        prepare()
    }

    /// The rings and the disk as a guest and a toolstack make them.
    private func prepare() {
        for queue in 0..<queues {
            // The header of a ring's page.
            let ring = unsafe ring(queue)
            unsafe xen_store_relaxed(ring + Int(XEN_RING_REQ_PROD), Self.firstIndex)
            unsafe xen_store_relaxed(ring + Int(XEN_RING_RSP_PROD), Self.firstIndex)
            unsafe xen_store_relaxed(ring + Int(XEN_RING_REQ_EVENT), Self.firstIndex &+ 1)
            unsafe xen_store_relaxed(ring + Int(XEN_RING_RSP_EVENT), Self.firstIndex &+ 1)
        }
        for sector in 0..<Self.sectors {
            unsafe Content.fill(disk(sector: sector), Content.word(write: 0, sector: sector))
        }
    }

    // MARK: Memory, valid as long as the region

    func ring(_ queue: Int) -> UnsafeMutableRawPointer { unsafe base + Self.start + queue * 4096 }

    /// `rsp_prod`
    func published(_ queue: Int) -> UInt32 { unsafe xen_load_acquire(ring(queue) + Int(XEN_RING_RSP_PROD)) }
    func publish(_ queue: Int, _ index: UInt32) {
        unsafe xen_store_release(ring(queue) + Int(XEN_RING_RSP_PROD), index)
    }

    /// A slot of a ring, whatever the index.
    func slot(_ queue: Int, _ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe ring(queue) + Int(XEN_RING_ENTRIES) + Int(index & (Self.entries - 1)) * 112
    }

    /// The page that is granted by this reference.
    func page(_ reference: UInt32) -> UnsafeMutableRawPointer? {
        guard reference < UInt32(queues) * Self.entries else { return nil }
        return unsafe base + pagesStart + Int(reference) * 4096
    }

    func disk(sector: Int) -> UnsafeMutableRawPointer { unsafe base + diskStart + sector * Self.sectorBytes }

    func table(_ queue: Int) -> JournaledTable {
        unsafe JournaledTable(journals[queue].base + Journal.headerSize, entries: Int(Self.entries))
    }

    /// The write as which a discard of these sectors counts, all of which lie on the disk.
    func discard(_ sectors: Range<Int>) -> UInt32 { unsafe xen_load_relaxed(discardPlace(sectors)) }
    func expect(discard number: UInt32, of sectors: Range<Int>) {
        unsafe xen_store_relaxed(discardPlace(sectors), number)
    }
    private func discardPlace(_ sectors: Range<Int>) -> UnsafeMutableRawPointer {
        unsafe base + discardStart + 4 * (sectors.lowerBound * Self.sectors + sectors.count - 1)
    }
}

/// What a sector holds: one word, over and over, that names the write it came from and the sector it was meant for.
enum Content {
    static func word(write: UInt32, sector: Int) -> UInt64 { UInt64(write) << 32 | 0x8000_0000 | UInt64(sector) }

    /// The write, if the word was meant for this sector.
    static func write(_ word: UInt64, sector: Int) -> UInt32? {
        let write = UInt32(word >> 32)
        return word == self.word(write: write, sector: sector) ? write : nil
    }

    /// `sector` has 512 bytes, here and below.
    static func fill(_ sector: UnsafeMutableRawPointer, _ word: UInt64) {
        for place in stride(from: 0, to: BlockRegion.sectorBytes, by: 8) {
            unsafe sector.storeBytes(of: word, toByteOffset: place, as: UInt64.self)
        }
    }

    /// The word that a sector repeats, or nil if it is torn.
    static func word(_ sector: UnsafeMutableRawPointer) -> UInt64? {
        guard unsafe memcmp(sector, sector + 8, BlockRegion.sectorBytes - 8) == 0 else { return nil }
        return unsafe sector.load(as: UInt64.self)
    }
}
