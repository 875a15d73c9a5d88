import CStepKill
import CXen
import Descriptors
import Glibc
import SharedRing

/// All that outlives a backend process, shared by all processes: words between them, what a world keeps, and journals.
///
///     0      channels with an event u32 | mutant u32 | order u64 | has recovered u32 | stop at u32
///     1024   why a process ended, text
///     4096   the world's own
@safe class Region {
    private static let textStart = 1024
    static let start = 4096

    /// Valid as long as the region.
    let base: UnsafeMutableRawPointer
    private let bytes: Int
    let journals: [MappedFile]

    /// - Parameters:
    ///   - bytes: in all, whole pages.
    ///   - journals: bytes of each.
    init(bytes: Int, journals: [Int]) throws {
        guard let base = unsafe step_map(bytes) else { throw Failure("no shared memory") }
        unsafe self.base = base
        self.bytes = bytes
        self.journals = try journals.map(Self.journal)
    }

    /// A file has a name only until it is mapped.
    private static func journal(_ bytes: Int) throws -> MappedFile {
        let path = "/dev/shm/step-kill-\(getpid())"
        let file = try MappedFile(creating: path, bytes: bytes)
        unsafe unlink(path)
        _ = Journal(making: file, for: JournalIdentity([]))
        return file
    }

    // MARK: Words between the processes

    /// The channels on which the backend has sent an event that the guest has not taken, as bits.
    private var events: UInt32 {
        get { unsafe xen_load_relaxed(base) }
        set { unsafe xen_store_release(base, newValue) }
    }
    func hasEvent(_ channel: Int) -> Bool { events & 1 << UInt32(channel) != 0 }
    func notify(_ channel: Int) { events |= 1 << UInt32(channel) }
    /// True if there was an event.
    func takeEvent(_ channel: Int) -> Bool {
        defer { events &= ~(1 << UInt32(channel)) }
        return hasEvent(channel)
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
    /// The process has made its queues.
    var hasRecovered: Bool {
        get { unsafe xen_load_relaxed(base + 16) != 0 }
        set { unsafe xen_store_release(base + 16, newValue ? 1 : 0) }
    }
    /// Where a process stops before it is idle.
    var stop: Stop {
        get { unsafe Stop(rawValue: xen_load_relaxed(base + 20)) ?? .idle }
        set { unsafe xen_store_release(base + 20, newValue.rawValue) }
    }

    enum Stop: UInt32 {
        case idle = 0
        /// Behind some turn.
        case turn
        /// When it maps a ring, before it reads the journal.
        case mapping
        /// When it is about to serve.
        case recovered
    }

    /// Why a process has ended.
    var text: String {
        get { unsafe String(cString: (base + Self.textStart).assumingMemoryBound(to: CChar.self)) }
        set {
            let bytes = Array(newValue.utf8.prefix(Self.start - Self.textStart - 1)) + [0]
            for (place, byte) in bytes.enumerated() {
                unsafe base.storeBytes(of: byte, toByteOffset: Self.textStart + place, as: UInt8.self)
            }
        }
    }

    // MARK: Copies of all of it

    /// What a region held at one moment.
    @safe final class Image {
        fileprivate let bytes: UnsafeMutableRawPointer
        /// What lay in a TAP device.
        var frames = Tap.Contents()

        init(of region: Region) {
            let journals = region.journals.reduce(0) { $0 + $1.count }
            unsafe bytes = .allocate(byteCount: region.bytes + journals, alignment: 4096)
        }

        deinit { unsafe bytes.deallocate() }
    }

    /// No process runs meanwhile.
    func save(_ image: Image) {
        // An image has room for all parts.
        unsafe memcpy(image.bytes, base, bytes)
        for (place, file) in placedJournals { unsafe memcpy(image.bytes + place, file.base, file.count) }
    }

    func restore(_ image: Image) {
        unsafe memcpy(base, image.bytes, bytes)
        for (place, file) in placedJournals { unsafe memcpy(file.base, image.bytes + place, file.count) }
    }

    /// Each with its place in an image.
    private var placedJournals: [(Int, MappedFile)] {
        var place = bytes
        return journals.map { file in
            defer { place += file.count }
            return (place, file)
        }
    }
}

/// Something does not hold.
struct Failure: Error {
    let text: String
    init(_ text: String) { self.text = text }
}
