import CStepKill
import CXen
import Descriptors
import Glibc
import SharedRing
import XenWire

/// All that outlives a backend process: the guest's memory, the disk and the journal, shared by all processes.
///
///     0      notification u32 | mutant u32 | order u64 | has recovered u32 | stop at u32
///     1024   why a process ended, text
///     4096   the ring
///     8192   the disk, 16 sectors
///     16384  the guest's pages, one for each request that may be open
@safe final class Region {
    static let entries: UInt32 = 32
    static let sectors = 16
    static let ringReference = GrantReference(1000)
    static let sectorBytes = Int(Sector.size)

    private static let textStart = 1024
    private static let textEnd = 4096
    private static let ringStart = 4096
    private static let diskStart = 8192
    private static let pagesStart = 16384
    private static let bytes = pagesStart + Int(entries) * 4096
    static let journalBytes = 12288

    private let base: UnsafeMutableRawPointer
    let file: MappedFile

    init() throws {
        guard let base = unsafe step_map(Self.bytes) else { throw Failure("no shared memory") }
        unsafe self.base = base
        // A name only until it is mapped.
        let path = "/dev/shm/step-kill-\(getpid())"
        file = try MappedFile(creating: path, bytes: Self.journalBytes)
        unsafe unlink(path)
    }

    // MARK: Words between the processes

    /// The backend has sent an event that the guest has not taken.
    var isNotified: Bool {
        get { unsafe xen_load_relaxed(base) != 0 }
        set { unsafe xen_store_release(base, newValue ? 1 : 0) }
    }
    var mutant: Mutant? {
        get { unsafe Mutant(rawValue: xen_load_relaxed(base + 4)) }
        set { unsafe xen_store_release(base + 4, newValue?.rawValue ?? 0) }
    }
    /// From which a process that is started draws its random numbers.
    var order: UInt64 {
        get { unsafe xen_load_relaxed64(base + 8) }
        set { unsafe xen_store_release64(base + 8, newValue) }
    }
    /// The process is behind `Queue.init`.
    var hasRecovered: Bool {
        get { unsafe xen_load_relaxed(base + 16) != 0 }
        set { unsafe xen_store_release(base + 16, newValue ? 1 : 0) }
    }
    /// Where a process stops before it is idle.
    var stop: Stop {
        get { unsafe Stop(rawValue: xen_load_relaxed(base + 20)) ?? .idle }
        set { unsafe xen_store_release(base + 20, newValue.rawValue) }
    }

    enum Stop: UInt32, CaseIterable {
        case idle = 0
        /// When it maps the ring, just before it reads the journal.
        case mapping
        /// When it is about to serve.
        case recovered
    }

    /// Why a process has ended.
    var text: String {
        get { unsafe String(cString: (base + Self.textStart).assumingMemoryBound(to: CChar.self)) }
        set {
            let bytes = Array(newValue.utf8.prefix(Self.textEnd - Self.textStart - 1)) + [0]
            for (place, byte) in bytes.enumerated() {
                unsafe base.storeBytes(of: byte, toByteOffset: Self.textStart + place, as: UInt8.self)
            }
        }
    }

    // MARK: Memory, valid as long as the region

    var ring: UnsafeMutableRawPointer { unsafe base + Self.ringStart }

    /// `rsp_prod`
    var published: UInt32 {
        get { unsafe xen_load_acquire(ring + Int(XEN_RING_RSP_PROD)) }
        set { unsafe xen_store_release(ring + Int(XEN_RING_RSP_PROD), newValue) }
    }

    /// A slot of the ring, whatever the index.
    func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe ring + Int(XEN_RING_ENTRIES) + Int(index & (Self.entries - 1)) * 112
    }

    /// The page that is granted by this reference.
    func page(_ reference: UInt32) -> UnsafeMutableRawPointer? {
        guard reference < Self.entries else { return nil }
        return unsafe base + Self.pagesStart + Int(reference) * 4096
    }

    func disk(sector: Int) -> UnsafeMutableRawPointer { unsafe base + Self.diskStart + sector * Self.sectorBytes }

    var table: JournaledTable { unsafe JournaledTable(file.base + Journal.headerSize, entries: Int(Self.entries)) }

    // MARK: Copies of all of it

    /// What a region held at one moment.
    @safe final class Image {
        fileprivate let bytes = UnsafeMutableRawPointer.allocate(
            byteCount: Region.bytes + Region.journalBytes, alignment: 4096)
        deinit { unsafe bytes.deallocate() }
    }

    // Both sides have these sizes, and no process runs meanwhile.
    func save(_ image: Image) {
        unsafe memcpy(image.bytes, base, Self.bytes)
        unsafe memcpy(image.bytes + Self.bytes, file.base, Self.journalBytes)
    }

    func restore(_ image: Image) {
        unsafe memcpy(base, image.bytes, Self.bytes)
        unsafe memcpy(file.base, image.bytes + Self.bytes, Self.journalBytes)
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
        for place in stride(from: 0, to: Region.sectorBytes, by: 8) {
            unsafe sector.storeBytes(of: word, toByteOffset: place, as: UInt64.self)
        }
    }

    /// The word that a sector repeats, or nil if it is torn.
    static func word(_ sector: UnsafeMutableRawPointer) -> UInt64? {
        guard unsafe memcmp(sector, sector + 8, Region.sectorBytes - 8) == 0 else { return nil }
        return unsafe sector.load(as: UInt64.self)
    }
}

/// Something does not hold.
struct Failure: Error {
    let text: String
    init(_ text: String) { self.text = text }
}
