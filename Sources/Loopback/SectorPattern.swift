internal import CXen
internal import Synchronization

/// How a sector that was read differs from the one that was written.
public struct SectorFault: Error, Equatable, Sendable, CustomStringConvertible {
    /// What is wrong.
    public enum Kind: Equatable, Sendable {
        /// It does not carry a header at all.
        case unmarked
        /// It carries the number of another sector.
        case otherSector(UInt64)
        /// It carries what was written at another time.
        case otherGeneration(expected: UInt32, found: UInt32)
        /// Its contents do not match its checksum.
        case damaged
    }

    /// The sector that was read.
    public var sector: UInt64
    public var kind: Kind

    public var description: String {
        switch kind {
        case .unmarked: "sector \(sector) holds nothing that was written here"
        case .otherSector(let found): "sector \(sector) holds sector \(found)"
        case .otherGeneration(let expected, let found):
            "sector \(sector) holds write \(found) instead of write \(expected)"
        case .damaged: "sector \(sector) does not match its checksum"
        }
    }
}

/// The checksum in a sector's header.
public enum SectorChecksum: String, CaseIterable, Sendable {
    case crc32c, md5
}

/// Sectors that say of themselves where they belong and when they were written.
///
///     0 magic (8)   8 sector (8)   16 generation (4)   20 zero (4)   24 checksum of everything else (16)   40 data
///
/// The header is in every sector and not in every block, so that a sector at a wrong place within a right block shows.
struct SectorPattern: Sendable {
    let checksum: SectorChecksum
    /// Tells one run's sectors from those of another.
    let seed: UInt64

    static var magic: UInt64 { 0x6b6c_6276_6966_7265 }

    /// Fills `count` sectors from `sector` on.
    func fill(_ memory: UnsafeMutableRawPointer, sector: UInt64, count: UInt32, generation: UInt32) {
        // The caller's buffer has `count` sectors.
        for index in 0..<UInt64(count) {
            unsafe fill(memory + Int(index) * 512, sector: sector &+ index, generation: generation)
        }
    }

    /// Checks sectors that were read.
    ///
    /// - Parameter generation: what was written last, or nil if any will do.
    func check(
        _ memory: UnsafeMutableRawPointer, sector: UInt64, count: UInt32, generation: UInt32?
    ) throws(SectorFault) {
        // The caller's buffer has `count` sectors.
        for index in 0..<UInt64(count) {
            unsafe try check(memory + Int(index) * 512, sector: sector &+ index, generation: generation)
        }
    }

    private func fill(_ memory: UnsafeMutableRawPointer, sector: UInt64, generation: UInt32) {
        unsafe memory.storeBytes(of: Self.magic, as: UInt64.self)
        unsafe memory.storeBytes(of: sector, toByteOffset: 8, as: UInt64.self)
        unsafe memory.storeBytes(of: UInt64(generation), toByteOffset: 16, as: UInt64.self)
        var random = SeededRandom(seed: seed ^ sector &* 0x9e37_79b9 ^ UInt64(generation) << 32)
        for offset in stride(from: 40, to: 512, by: 8) {
            unsafe memory.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        }
        let (low, high) = unsafe digest(memory)
        unsafe memory.storeBytes(of: low, toByteOffset: 24, as: UInt64.self)
        unsafe memory.storeBytes(of: high, toByteOffset: 32, as: UInt64.self)
    }

    private func check(
        _ memory: UnsafeMutableRawPointer, sector: UInt64, generation: UInt32?
    ) throws(SectorFault) {
        let found = unsafe memory.load(fromByteOffset: 8, as: UInt64.self)
        let written = unsafe memory.load(fromByteOffset: 16, as: UInt32.self)
        guard unsafe memory.load(as: UInt64.self) == Self.magic else {
            throw SectorFault(sector: sector, kind: .unmarked)
        }
        guard found == sector else { throw SectorFault(sector: sector, kind: .otherSector(found)) }
        let (low, high) = unsafe digest(memory)
        guard unsafe memory.load(fromByteOffset: 24, as: UInt64.self) == low,
            unsafe memory.load(fromByteOffset: 32, as: UInt64.self) == high
        else { throw SectorFault(sector: sector, kind: .damaged) }
        if let generation, generation != written {
            throw SectorFault(sector: sector, kind: .otherGeneration(expected: generation, found: written))
        }
    }

    /// The checksum of everything but the checksum.
    private func digest(_ memory: UnsafeMutableRawPointer) -> (UInt64, UInt64) {
        // 512 bytes of the caller's buffer, only read.
        let bytes = unsafe UnsafeRawBufferPointer(start: memory, count: 512)
        switch checksum {
        case .crc32c:
            let head = unsafe CRC32C.update(~0, UnsafeRawBufferPointer(rebasing: bytes[0..<24]))
            return unsafe (UInt64(~CRC32C.update(head, UnsafeRawBufferPointer(rebasing: bytes[40..<512]))), 0)
        case .md5:
            var md5 = MD5()
            unsafe md5.update(UnsafeRawBufferPointer(rebasing: bytes[0..<24]))
            unsafe md5.update(UnsafeRawBufferPointer(rebasing: bytes[40..<512]))
            return md5.finish()
        }
    }
}
