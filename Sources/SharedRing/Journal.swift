internal import CLinux
internal import CXen
public import Descriptors
internal import Glibc

/// The file of one ring that outlives the process which serves it: an identity, a record of faults, and a body that
/// belongs to the ring's thread (`InFlightTable`, or a network queue's records).
///
///     0    magic u64, stored last | format u32 | bytes of the identity u32 | checksum of the identity u64
///     64   faults u32 | entry that is done alone u32, plus 1 | entry whose fault was its own u32, plus 1 | errno of a failed
///          flush u32
///     128  the identity, text
///     4096 the body
///
/// Everything in it is read as if a guest had written it.
@safe public final class Journal: Sendable {
    private let file: MappedFile
    public let identity: JournalIdentity

    public static let headerSize = 4096
    /// Versions whose body another version can read have the same number.
    public static let format: UInt32 = 1
    private static let magic: UInt64 = 0x4C4E_524A_4E45_5821  // "!XENJRNL"
    private static let textStart = 128
    private static let faultStart = 64

    /// Makes the journal of a ring from which nothing was taken.
    public init(making file: MappedFile, for identity: JournalIdentity) {
        self.file = file
        self.identity = identity
        let base = unsafe file.base
        var text = identity.text
        let length = text.withUTF8 { bytes in
            let length = min(bytes.count, Self.headerSize - Self.textStart)
            // Within the header, which the file has.
            if let source = bytes.baseAddress { unsafe memcpy(base + Self.textStart, source, length) }
            return length
        }
        unsafe base.storeBytes(of: Self.format, toByteOffset: 8, as: UInt32.self)
        unsafe base.storeBytes(of: UInt32(length), toByteOffset: 12, as: UInt32.self)
        unsafe base.storeBytes(of: Self.checksum(base + Self.textStart, length), toByteOffset: 16, as: UInt64.self)
        unsafe xen_store_release64(base, Self.magic)
    }

    /// Looks whether the file is a journal.
    public init(reading file: MappedFile) throws(JournalRefusal) {
        let base = unsafe file.base
        guard file.count > Self.headerSize, unsafe xen_load_acquire64(base) == Self.magic else {
            throw .notAJournal("its first word")
        }
        let format = unsafe base.load(fromByteOffset: 8, as: UInt32.self)
        guard format == Self.format else { throw .notAJournal("format \(format) is not \(Self.format)") }
        let length = Int(unsafe base.load(fromByteOffset: 12, as: UInt32.self))
        guard length <= Self.headerSize - Self.textStart else { throw .notAJournal("an identity of \(length) bytes") }
        guard unsafe Self.checksum(base + Self.textStart, length) == base.load(fromByteOffset: 16, as: UInt64.self)
        else { throw .notAJournal("the checksum of its identity") }
        // Within the header, by the rule above.
        let bytes = unsafe UnsafeRawBufferPointer(start: base + Self.textStart, count: length)
        identity = unsafe JournalIdentity(text: String(decoding: bytes, as: UTF8.self))
        self.file = file
    }

    /// Whoever opens the file from now on finds no journal.
    public func invalidate() { unsafe xen_store_release64(file.base, 0) }

    /// The ring's own part; valid as long as this object lives.
    public var body: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(
            start: file.base + Self.headerSize, count: file.count - Self.headerSize)
    }

    /// Three words that a fault's handler writes (`linux_record_faults`); valid as long as this object lives.
    public var faultRecord: UnsafeMutableRawPointer { unsafe file.base + Self.faultStart }

    /// FNV-1a: against what is half written or of another kind, not against malice.
    private static func checksum(_ start: UnsafeRawPointer, _ count: Int) -> UInt64 {
        var sum: UInt64 = 0xcbf2_9ce4_8422_2325
        // The caller's bytes.
        for index in 0..<count {
            sum = unsafe (sum ^ UInt64(start.load(fromByteOffset: index, as: UInt8.self))) &* 0x100_0000_01b3
        }
        return sum
    }
}

// Faults: signals by which the process ended for something that it did itself. SIGKILL is none.
extension Journal {
    /// Faults since the last time that all of a backlog was answered.
    public var faults: UInt32 { unsafe xen_load_relaxed(faultRecord) }

    /// The entry during which, and nothing else, the last fault happened.
    public var condemned: UInt16? {
        let word = unsafe xen_load_relaxed(faultRecord + 8)
        return word == 0 ? nil : UInt16(truncatingIfNeeded: word &- 1)
    }

    /// Two faults in a row: from now on one entry at a time, so that the next fault tells which it is.
    public var mustGoAlone: Bool { faults >= 2 }

    /// Notes that only this entry is worked on; nil: none is.
    public func goAlone(_ entry: UInt16?) {
        unsafe xen_store_release(faultRecord + 4, entry.map { UInt32($0) &+ 1 } ?? 0)
    }

    /// The condemned entry is over: what comes after it is counted from there, and is not to be taken for it.
    public func absolve() {
        goAlone(nil)
        unsafe xen_store_release(faultRecord, min(faults, 2))
        unsafe xen_store_release(faultRecord + 8, 0)
    }

    /// Counts signals by which this thread ends the process during `body`.
    public static func recordingFaults(in journal: Journal?, during body: () -> Void) {
        // Whoever was killed may have left a mark, and no fault of ours is that entry's.
        journal?.goAlone(nil)
        // The caller keeps the journal, and that keeps the record mapped.
        unsafe linux_record_faults(journal.map { unsafe $0.faultRecord.assumingMemoryBound(to: UInt32.self) })
        body()
        linux_record_faults(nil)
    }

    /// The errno with which the volume failed to make writes durable; nil if it never did. The kernel says it once: whoever
    /// flushes again, through another open file, may be told that all is well.
    public var flushFailure: Int32? {
        let code = unsafe xen_load_relaxed(faultRecord + 12)
        return code == 0 ? nil : Int32(truncatingIfNeeded: code)
    }

    /// No later process is to try it again.
    public func noteFlushFailure(_ code: Int32) {
        unsafe xen_store_release(faultRecord + 12, UInt32(truncatingIfNeeded: code))
    }

    /// All of the backlog was answered.
    public func forgetFaults() {
        absolve()
        unsafe xen_store_release(faultRecord, 0)
    }
}
