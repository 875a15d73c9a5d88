internal import XenWire

/// A load, worked out for one disk: what each lane (one queue, one thread) has to do.
struct JobPlan: Sendable, Equatable {
    let options: JobOptions
    /// Sectors of one I/O.
    let sectors: UInt32
    /// Sectors of its requests; the last one of an I/O may be shorter.
    let requestSectors: UInt32
    /// Requests of one I/O.
    let pieces: Int
    /// I/Os of `bs` that the used part of the volume holds.
    let blocks: UInt32
    let lanes: Int
    /// Sectors that are verified with each block.
    var isVerifying: Bool { options.verify != nil }

    init(_ options: JobOptions, _ disk: FrontendDisk, lanes: Int) throws(LoopbackError) {
        self.options = options
        self.lanes = lanes
        sectors = UInt32(options.blockBytes / 512)
        requestSectors = min(sectors, UInt32(Self.segments(options, disk)) * 8)
        pieces = Int((sectors + requestSectors - 1) / requestSectors)
        let size = options.sizeBytes.map { $0 / Sector.size } ?? disk.capacity.rawValue
        guard size <= disk.capacity.rawValue else {
            throw .notOffered("--size \(size * 512): the disk has \(disk.capacity.rawValue * 512) bytes")
        }
        guard size >= UInt64(sectors) * UInt64(lanes) else {
            throw .notOffered(
                "\(options.volume): \(size) sectors are too few for \(lanes) queues and bs \(options.blockBytes)")
        }
        guard UInt64(options.blockBytes) % UInt64(disk.sectorSize) == 0 else {
            throw .notOffered(
                "--bs \(options.blockBytes): must be a multiple of the disk's sector size, \(disk.sectorSize)")
        }
        guard !(options.pattern.writes && disk.isReadOnly) else {
            throw .notOffered("--rw \(options.pattern.rawValue): the disk is read-only")
        }
        blocks = UInt32(clamping: size / UInt64(sectors))
    }

    /// Segments of the largest request that the job uses.
    static func segments(_ options: JobOptions, _ disk: FrontendDisk) -> UInt16 {
        let offered = min(disk.indirectSegments, options.indirectSegments ?? .max)
        return min(UInt16(clamping: (options.blockBytes + 4095) / 4096), max(SegmentLimit.direct, offered))
    }

    /// I/Os in flight in one lane.
    func depth(_ lane: Int) -> Int { max(1, share(of: UInt64(options.depth * options.jobs), lane)) }

    /// The lane's blocks are those whose number leaves this remainder, so that lanes never touch the same block.
    func blocks(_ lane: Int) -> UInt32 { UInt32(share(of: UInt64(blocks), lane)) }

    /// The first sector of a lane's block.
    @_noLocks func sector(_ block: UInt32, _ lane: Int) -> UInt64 {
        (UInt64(block) &* UInt64(truncatingIfNeeded: lanes) &+ UInt64(truncatingIfNeeded: lane)) &* UInt64(sectors)
    }

    /// I/Os that a lane makes; unlimited while there is a run time.
    func numberOfIOs(_ lane: Int) -> UInt64 {
        if options.runtimeNanoseconds != nil { return .max }
        let total = (options.numberOfIOs ?? UInt64(blocks)) * UInt64(options.jobs)
        return UInt64(share(of: total, lane))
    }

    private func share(of total: UInt64, _ lane: Int) -> Int {
        let (quotient, remainder) = total.quotientAndRemainder(dividingBy: UInt64(lanes))
        return Int(clamping: quotient + (UInt64(lane) < remainder ? 1 : 0))
    }
}

/// Visits the numbers below a bound in a random order, each once, from a seed: fio's random map without the map.
struct RandomOrder: Sendable {
    private let bound: UInt32
    private let bits: UInt32
    private let seed: UInt32

    init(below bound: UInt32, seed: UInt32) {
        self.bound = bound
        bits = UInt32(max(2, 32 - (max(bound, 2) - 1).leadingZeroBitCount))
        self.seed = seed
    }

    /// The number at a place of the order; `index` is below the bound.
    @_noLocks func number(at index: UInt32) -> UInt32 {
        var value = index
        // A permutation of the next power of two, walked until it falls below the bound: at most a few steps.
        repeat { value = mixed(value) } while value >= bound
        return value
    }

    /// Invertible steps on `bits` bits: odd multiplication, addition, and xor with a shifted self.
    @_noLocks private func mixed(_ value: UInt32) -> UInt32 {
        let mask = bits == 32 ? UInt32.max : (1 &<< bits) &- 1
        let half = bits &>> 1
        var mixed = (value &* 0x9e37_79b1 &+ seed) & mask
        mixed ^= mixed &>> half
        mixed = (mixed &* 0x85eb_ca77) & mask
        mixed ^= mixed &>> half
        return (mixed &* 0xc2b2_ae3d) & mask
    }
}
