import CFuzzDriver
import Descriptors
import Glibc
import SharedRing

/// The file of a journal that a killed process has left, and what may have become of it.
final class FuzzedFile: Sendable {
    let file: MappedFile
    /// Where another file is made of it.
    private let path: String
    private let sound: [UInt8]
    /// Bytes up to the identity's end.
    private let said: Int
    let identity: JournalIdentity
    /// What is changed: the few bytes that decide much, each part as often as the whole file.
    private let parts: [Range<Int>]
    private static let textStart = 128

    /// - Parameters:
    ///   - file: a sound journal's.
    ///   - heads: where in its body few bytes decide much.
    init(_ file: MappedFile, _ path: String, heads: [Range<Int>]) throws {
        self.file = file
        self.path = path
        identity = try Journal(reading: file).identity
        said = Int(unsafe file.base.load(fromByteOffset: 12, as: UInt32.self)) + Self.textStart
        let inBody = heads.map { $0.lowerBound + Journal.headerSize..<$0.upperBound + Journal.headerSize }
        parts = [0..<file.count, 0..<24, 64..<76] + inBody
        // The file's own bytes.
        sound = unsafe Array(UnsafeRawBufferPointer(start: file.base, count: file.count))
    }

    /// As it was left.
    func mend() { unsafe file.base.copyMemory(from: sound, byteCount: sound.count) }

    /// What a journal says of itself is not what it was: the first words or the identity.
    var isOther: Bool { unsafe memcmp(file.base, sound, said) != 0 }

    /// The input is a number of changes (part u8, offset u16, byte u8), or pages of the body.
    func damage(_ input: inout FuzzInput, page: Int?) {
        if let page { return setPages(&input, from: Journal.headerSize + 4096 * page) }
        while !input.isEmpty {
            let part = parts[Int(input.byte()) % parts.count]
            let offset = part.lowerBound + input.half() % part.count
            // Within the file.
            unsafe file.base.storeBytes(of: input.byte(), toByteOffset: offset, as: UInt8.self)
        }
    }

    private func setPages(_ input: inout FuzzInput, from start: Int) {
        let bytes = input.rest(file.count - start)
        // Up to the file's end.
        unsafe (file.base + start).copyMemory(from: bytes, byteCount: bytes.count)
    }

    /// Makes the checksum of the identity right again: else hardly anything would come as far as that.
    func seal() {
        let length = Int(unsafe file.base.load(fromByteOffset: 12, as: UInt32.self))
        seal(Self.textStart, min(length, Journal.headerSize - Self.textStart), at: 16)
    }

    /// Makes the checksum of some of the file's bytes right again.
    func seal(_ start: Int, _ count: Int, at place: Int) {
        var sum: UInt64 = 0xcbf2_9ce4_8422_2325
        for offset in start..<start + count {
            sum = unsafe (sum ^ UInt64(file.base.load(fromByteOffset: offset, as: UInt8.self))) &* 0x100_0000_01b3
        }
        unsafe file.base.storeBytes(of: sum, toByteOffset: place, as: UInt64.self)
    }

    /// Runs `body` on a file of the first bytes; nil: on all of them. Nobody may look at what is behind them, though the last
    /// page has more.
    func withCut(to length: Int?, _ body: (MappedFile) throws(JournalRefusal) -> Void) throws(JournalRefusal) {
        guard let length else { return try body(file) }
        guard let cut = opened(length) else { return }
        let rest = (4096 - length % 4096) % 4096
        // Mapped as long as `cut` is there, which `body` does not end.
        unsafe __asan_poison_memory_region(cut.base + length, rest)
        defer { unsafe __asan_unpoison_memory_region(cut.base + length, rest) }
        try body(cut)
    }

    private func opened(_ length: Int) -> MappedFile? {
        let descriptor = unsafe open(path, O_CREAT | O_TRUNC | O_WRONLY, 0o600)
        defer { _ = unsafe unlink(path) }
        let written = unsafe write(descriptor, file.base, length)
        precondition(written == length, "\(path) cannot be written")
        close(descriptor)
        // Whoever knows how long it should be refuses it.
        precondition(length == file.count || (try? MappedFile(opening: path, bytes: file.count)) == nil)
        return try? MappedFile(opening: path, bytes: nil)
    }
}

extension JournalIdentity {
    /// All that another one says is said here as well.
    func says(_ other: some Sequence<Fact>) -> Bool { other.allSatisfy(facts.contains) }
}
