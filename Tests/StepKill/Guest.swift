import CXen
import Loopback
import XenWire

/// A blkfront that takes nothing on trust. A value: what it knows at one moment can be kept, like the region's image.
struct Guest {
    private struct Open {
        let serial: UInt32
        let operation: UInt8
        let sector: Int
        /// Where in its page each of its sectors is.
        let places: [Int]
        let start: Int
    }

    private enum Kind { case plain, scattered, indirect, flush, barrier }

    /// By page.
    private var open: [Open?]
    private var openCount = 0
    private var history = History(sectors: Region.sectors)
    private var produced: UInt32
    private var consumed: UInt32
    private var serial: UInt32 = 0
    private var time = 0
    private(set) var answered = 0
    var random: SeededRandom
    private let habits: Habits

    /// What requests it makes.
    struct Habits {
        /// Most requests that it has open.
        var appetite = 32
        /// Where most requests begin: below this.
        var busySectors = 3
        /// A barrier claims all of the device, for which many instructions are needed.
        var usesBarriers = false
        /// As how many disks it sees the one that there is: 1, but for a mutant.
        var aliases = 1
    }

    init(_ random: SeededRandom, _ habits: Habits) {
        self.random = random
        self.habits = habits
        open = Array(repeating: nil, count: Int(Region.entries))
        produced = Life.firstIndex
        consumed = Life.firstIndex
    }

    /// The ring and the disk as a guest and a toolstack make them.
    static func prepare(_ region: Region) {
        // The header of the ring's page, and whole sectors.
        for place in [XEN_RING_REQ_PROD, XEN_RING_RSP_PROD] {
            unsafe xen_store_relaxed(region.ring + Int(place), Life.firstIndex)
        }
        for place in [XEN_RING_REQ_EVENT, XEN_RING_RSP_EVENT] {
            unsafe xen_store_relaxed(region.ring + Int(place), Life.firstIndex &+ 1)
        }
        for sector in 0..<Region.sectors {
            unsafe Content.fill(region.disk(sector: sector), Content.word(write: 0, sector: sector))
        }
    }

    // MARK: Requests

    /// Answers are taken, if there was an event, and some new requests made.
    mutating func goOn(_ region: Region) throws {
        try takeAnswers(region)
        ask(region, 1 + random.below(habits.appetite))
    }

    /// Makes so many requests, as far as its appetite goes.
    mutating func ask(_ region: Region, _ count: Int) {
        for _ in 0..<min(count, habits.appetite - openCount) { put(region) }
        time += 1
        unsafe xen_store_release(region.ring + Int(XEN_RING_REQ_PROD), produced)
    }

    private mutating func put(_ region: Region) {
        guard let page = open.firstIndex(where: { $0 == nil }) else { return }
        serial += 1
        let kind = kind()
        let places = places(kind)
        // Few sectors, so that requests meet.
        let range = random.chance(perThousand: 800) ? habits.busySectors : Region.sectors - places.count + 1
        let request = Open(
            serial: serial, operation: operation(kind), sector: random.below(range), places: places, start: time + 1)
        open[page] = request
        openCount += 1
        fill(page, request, region)
        describe(page, request, kind, region)
        produced &+= 1
    }

    private mutating func kind() -> Kind {
        switch random.below(20) {
        case 0..<14: .plain
        case 14..<17: .scattered
        case 17, 18: .indirect
        default: habits.usesBarriers ? .barrier : .flush
        }
    }

    private mutating func operation(_ kind: Kind) -> UInt8 {
        switch kind {
        case .plain, .scattered, .indirect: UInt8(random.below(2))
        case .flush: 3
        case .barrier: 2
        }
    }

    /// The first sector of a page is for a table of segments.
    private mutating func places(_ kind: Kind) -> [Int] {
        switch kind {
        case .plain: random.chance(perThousand: 500) ? [1] : [1, 2]
        case .scattered, .indirect, .barrier: [1, 4]
        case .flush: []
        }
    }

    /// Fills the page with what is to be written, or with what a read has to replace.
    private func fill(_ page: Int, _ request: Open, _ region: Region) {
        guard let memory = unsafe region.page(UInt32(page)) else { return }
        for (place, sector) in zip(request.places, request.sector...) {
            let word = request.operation == 0 ? 0xdede_dede : Content.word(write: request.serial, sector: sector)
            // A sector of the page.
            unsafe Content.fill(memory + place * Region.sectorBytes, word)
        }
    }

    /// Writes the request, over the whole slot.
    private mutating func describe(_ page: Int, _ request: Open, _ kind: Kind, _ region: Region) {
        let slot = unsafe region.slot(produced)
        let segments = Self.segments(page, request)
        let sector = random.below(habits.aliases) * Region.sectors + request.sector
        // Offsets as in blkif.h, all within the slot's 112 bytes or the table's sector.
        unsafe slot.initializeMemory(as: UInt8.self, repeating: 0xee, count: 112)
        unsafe slot.storeBytes(of: request.operation, as: UInt8.self)
        unsafe slot.storeBytes(of: UInt8(segments.count), toByteOffset: 1, as: UInt8.self)
        unsafe slot.storeBytes(of: Self.identifier(page, request.serial), toByteOffset: 8, as: UInt64.self)
        unsafe slot.storeBytes(of: UInt64(sector), toByteOffset: 16, as: UInt64.self)
        var table = unsafe slot + 24
        if kind == .indirect, let memory = unsafe region.page(UInt32(page)) {
            unsafe slot.storeBytes(of: 6, as: UInt8.self)
            unsafe slot.storeBytes(of: request.operation, toByteOffset: 1, as: UInt8.self)
            unsafe slot.storeBytes(of: UInt16(segments.count), toByteOffset: 2, as: UInt16.self)
            unsafe slot.storeBytes(of: UInt32(page), toByteOffset: 28, as: UInt32.self)
            unsafe table = memory
        }
        for (index, segment) in segments.enumerated() {
            unsafe table.storeBytes(of: segment, toByteOffset: index * 8, as: blkif_segment_wire.self)
        }
    }

    /// Neighbouring places make one segment.
    private static func segments(_ page: Int, _ request: Open) -> [blkif_segment_wire] {
        var segments: [blkif_segment_wire] = []
        for place in request.places.map(UInt8.init) {
            if let last = segments.last, last.last_sect + 1 == place {
                segments[segments.count - 1].last_sect = place
            } else {
                segments.append(
                    blkif_segment_wire(gref: UInt32(page), first_sect: place, last_sect: place, pad: 0))
            }
        }
        return segments
    }

    /// Never the same again, so that a late answer is not taken for another's.
    private static func identifier(_ page: Int, _ serial: UInt32) -> UInt64 { UInt64(serial) << 8 | UInt64(page) }

    // MARK: Answers

    /// As Linux' blkfront: only an event makes it look, and then it asks for the next.
    mutating func takeAnswers(_ region: Region) throws {
        guard region.isNotified else { return }
        region.isNotified = false
        repeat {
            let published = region.published
            guard published &- consumed <= produced &- consumed else { throw Failure("rsp_prod makes no sense") }
            while consumed != published { try takeAnswer(region) }
            // The ring's header.
            unsafe xen_store_release(region.ring + Int(XEN_RING_RSP_EVENT), consumed &+ 1)
        } while region.published != consumed
    }

    private mutating func takeAnswer(_ region: Region) throws {
        // A response, at the beginning of the slot.
        let slot = unsafe region.slot(consumed)
        let (identifier, operation, status) = unsafe (
            slot.load(as: UInt64.self), slot.load(fromByteOffset: 8, as: UInt8.self),
            slot.load(fromByteOffset: 10, as: Int16.self)
        )
        consumed &+= 1
        let page = Int(identifier & 0xff)
        guard page < open.count, let request = open[page], Self.identifier(page, request.serial) == identifier else {
            throw Failure("an answer to \(String(identifier, radix: 16)), which is not open")
        }
        guard operation == request.operation else {
            throw Failure("an answer to operation \(operation), and not to \(request.operation)")
        }
        guard status == 0 else { throw Failure("status \(status) for operation \(operation)") }
        time += 1
        try end(request, page, region)
        open[page] = nil
        openCount -= 1
        answered += 1
    }

    private mutating func end(_ request: Open, _ page: Int, _ region: Region) throws {
        for (place, sector) in zip(request.places, request.sector...) {
            let isWrite = request.operation != 0
            let write = try isWrite ? request.serial : read(page, place, sector, region)
            history.note(write, sector: sector, isWrite: isWrite, from: request.start, to: time)
        }
    }

    private func read(_ page: Int, _ place: Int, _ sector: Int, _ region: Region) throws -> UInt32 {
        // A sector of the page.
        guard let memory = unsafe region.page(UInt32(page)),
            let word = unsafe Content.word(memory + place * Region.sectorBytes)
        else { throw Failure("a read of sector \(sector) is torn") }
        guard let write = Content.write(word, sector: sector) else {
            throw Failure("a read of sector \(sector) brings \(String(word, radix: 16))")
        }
        return write
    }

    /// All is answered, and what the disk holds is the end of a history that can be.
    mutating func finish(_ region: Region) throws {
        guard openCount == 0 else {
            let isSilent = region.published != consumed
            throw Failure(isSilent ? "answers that the guest does not hear of" : "\(openCount) requests are lost")
        }
        time += 2
        for sector in 0..<Region.sectors {
            guard let word = unsafe Content.word(region.disk(sector: sector)),
                let write = Content.write(word, sector: sector)
            else { throw Failure("sector \(sector) is torn") }
            history.note(write, sector: sector, isWrite: false, from: time, to: time)
        }
        if let contradiction = history.contradiction() { throw Failure(contradiction) }
    }
}
