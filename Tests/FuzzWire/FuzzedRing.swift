import CXen
import Glibc
import SharedRing

/// Where a guest says that its ring is.
struct RingPlace {
    /// `rsp_prod` and `req_prod`.
    let answered: UInt32
    let asked: UInt32

    /// Near the wrap most often, where sound records are, and with as many requests as a ring may have.
    init(_ input: inout FuzzInput) {
        let how = input.byte()
        let (first, second) = (input.word(), input.word())
        answered = how & 3 == 0 ? first : FuzzedRing.first
        asked = how & 12 == 0 ? second : answered &+ second % 260
    }
}

/// A ring's page, with nothing behind its slots, and the record of what is being answered on it.
///
/// Safe because all memory is as long as the slots, and lasts as long as the process. It is copied and compared as a whole:
/// a loop over bytes is what libFuzzer watches at each step.
@safe final class FuzzedRing {
    /// Where sound records are: the ring's indices wrap around among the requests that they have.
    static let first: UInt32 = 0xFFFF_FFF8
    private static let headerSize = 64
    private let slots: Int
    private let slotSize: Int
    /// Requests for which the record has room, and where in the journal's body it lies.
    private let copies: Int
    private let offset: Int
    private let bytes: Int
    private let sound: [UInt8]
    private let page: UnsafeMutableRawPointer
    private let expected: UnsafeMutableRawPointer

    init(slots: UInt32, of slotSize: Int, copies: Int? = nil, at offset: Int) {
        self.slots = Int(slots)
        self.slotSize = slotSize
        self.copies = copies ?? Int(slots)
        self.offset = offset
        bytes = Self.headerSize + Int(slots) * slotSize
        sound = (0..<bytes).map { UInt8(truncatingIfNeeded: $0 * 7) | 0x80 }
        unsafe page = .allocate(byteCount: bytes, alignment: 64)
        unsafe expected = .allocate(byteCount: bytes, alignment: 64)
    }

    private func record(_ journal: Journal) -> AnswerRecord {
        AnswerRecord(slots: copies, of: slotSize, in: journal, at: offset)
    }

    /// Makes a sound record: up to 20 requests are being answered.
    func note(in journal: Journal) {
        var record = record(journal)
        let count = min(copies, 20)
        for byte in 0..<count * slotSize {
            // The record has room for so many requests.
            unsafe record.copies.storeBytes(of: UInt8(truncatingIfNeeded: byte), toByteOffset: byte, as: UInt8.self)
        }
        record.note(Self.first, UInt32(count))
    }

    /// What lies in the record comes into slots that wait, whatever it says, once or twice; nothing else is changed.
    func judge(_ journal: Journal, _ place: RingPlace) {
        unsafe page.copyMemory(from: sound, byteCount: bytes)
        unsafe page.storeBytes(of: place.asked, toByteOffset: Int(XEN_RING_REQ_PROD), as: UInt32.self)
        unsafe page.storeBytes(of: place.answered, toByteOffset: Int(XEN_RING_RSP_PROD), as: UInt32.self)
        expect(journal, place)
        for _ in 0..<2 {
            restore(journal, place)
            unsafe precondition(memcmp(page, expected, bytes) == 0, "other slots than those that wait")
        }
    }

    private func restore(_ journal: Journal, _ place: RingPlace) {
        // The page outlives the ring.
        let ring = unsafe BackRing(
            base: page, entries: UInt32(slots), entrySize: slotSize, startingAt: place.answered)
        var record = record(journal)
        record.restore(to: ring)
    }

    /// The rule, told in another way: the record's requests are the first of those that wait, as far as there are any.
    private func expect(_ journal: Journal, _ place: RingPlace) {
        unsafe expected.copyMemory(from: page, byteCount: bytes)
        let body = unsafe journal.body
        let waiting = Int(place.asked &- place.answered)
        guard let base = body.baseAddress, body.count >= offset + Self.headerSize + copies * slotSize,
            waiting <= slots
        else { return }
        let record = unsafe base + offset
        let (count, index) = unsafe (
            record.load(as: UInt32.self), record.load(fromByteOffset: 4, as: UInt32.self)
        )
        guard index == place.answered, count <= copies else { return }
        for number in 0..<min(Int(count), waiting) {
            let slot = Int(place.answered &+ UInt32(number)) % slots
            // One of the slots, and one of the record's, which has as many as `copies` says.
            unsafe memcpy(
                expected + Self.headerSize + slot * slotSize, record + Self.headerSize + number * slotSize, slotSize)
        }
    }
}
