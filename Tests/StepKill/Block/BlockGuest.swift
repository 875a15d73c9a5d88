import CXen
import Loopback
import XenWire

/// A blkfront with one queue or more.
struct BlockGuest: Guest {
    struct Open {
        let serial: UInt32
        let operation: UInt8
        let sector: Int
        /// Where in its page each of its sectors is.
        let places: [Int]
        let start: Int

        var sectors: Range<Int> { sector..<sector + places.count }
    }

    enum Kind { case plain, scattered, indirect, flush, barrier, discard }

    /// One queue: requests by their pages, and indices.
    private struct End {
        var open: [Open?] = Array(repeating: nil, count: Int(BlockRegion.entries))
        var produced = BlockRegion.firstIndex
        var consumed = BlockRegion.firstIndex
    }

    private let region: BlockRegion
    private var ends: [End]
    private var openCount = 0
    private var history = History(sectors: BlockRegion.sectors)
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
        /// Thousandths of all requests, and of those that read or write.
        var discards = 130
        var reads = 500
        /// As how many disks it sees the one that there is: 1, but for mutants.
        var aliases = 1
        /// The same for discards.
        var discardAliases = 1
    }

    init(_ region: BlockRegion, _ random: SeededRandom, _ habits: Habits) {
        self.region = region
        self.random = random
        self.habits = habits
        ends = Array(repeating: End(), count: region.queues)
    }

    var appetite: Int { habits.appetite }

    // MARK: Requests

    mutating func ask(_ count: Int) {
        for _ in 0..<min(count, habits.appetite - openCount) { put(random.below(ends.count)) }
        time += 1
        for queue in ends.indices {
            unsafe xen_store_release(region.ring(queue) + Int(XEN_RING_REQ_PROD), ends[queue].produced)
        }
    }

    private mutating func put(_ queue: Int) {
        guard let place = ends[queue].open.firstIndex(where: { $0 == nil }) else { return }
        serial += 1
        let kind = kind()
        let places = places(kind)
        // Few sectors, so that requests meet.
        let range = random.chance(perThousand: 800) ? habits.busySectors : BlockRegion.sectors - places.count + 1
        let request = Open(
            serial: serial, operation: operation(kind), sector: random.below(range), places: places, start: time + 1)
        if kind == .discard, !expect(request) { return }
        ends[queue].open[place] = request
        openCount += 1
        let page = queue * Int(BlockRegion.entries) + place
        let writer = RequestWriter(region: region, page: page, request: request)
        // A slot of the ring.
        unsafe writer.write(kind, to: region.slot(queue, ends[queue].produced), disk: alias(kind))
        ends[queue].produced &+= 1
    }

    private mutating func kind() -> Kind {
        if random.chance(perThousand: habits.discards) { return .discard }
        return switch random.below(20) {
        case 0..<14: .plain
        case 14..<17: .scattered
        case 17, 18: .indirect
        default: habits.usesBarriers ? .barrier : .flush
        }
    }

    private mutating func operation(_ kind: Kind) -> UInt8 {
        switch kind {
        case .plain, .scattered, .indirect: random.chance(perThousand: habits.reads) ? 0 : 1
        case .flush: 3
        case .barrier: 2
        case .discard: 5
        }
    }

    /// The first sector of a page is for a table of segments.
    private mutating func places(_ kind: Kind) -> [Int] {
        switch kind {
        case .plain: random.chance(perThousand: 500) ? [1] : [1, 2]
        case .scattered, .indirect, .barrier: [1, 4]
        case .flush: []
        case .discard: Array(1...1 + random.below(3))
        }
    }

    /// The disk is told what a discard leaves; false if another one of the same sectors is open, which would leave something
    /// else.
    private func expect(_ request: Open) -> Bool {
        let isTaken = ends.flatMap(\.open).contains { $0?.operation == 5 && $0?.sectors == request.sectors }
        if !isTaken { region.expect(discard: request.serial, of: request.sectors) }
        return !isTaken
    }

    private mutating func alias(_ kind: Kind) -> Int {
        random.below(kind == .discard ? max(habits.aliases, habits.discardAliases) : habits.aliases)
    }

    // MARK: Answers

    /// As Linux' blkfront: only an event makes it look, and then it asks for the next.
    mutating func takeAnswers() throws {
        for queue in ends.indices where region.takeEvent(queue) { try takeAnswers(queue) }
    }

    private mutating func takeAnswers(_ queue: Int) throws {
        repeat {
            let published = region.published(queue)
            guard published &- ends[queue].consumed <= ends[queue].produced &- ends[queue].consumed else {
                throw Failure("rsp_prod makes no sense")
            }
            while ends[queue].consumed != published { try takeAnswer(queue) }
            // The ring's header.
            unsafe xen_store_release(region.ring(queue) + Int(XEN_RING_RSP_EVENT), published &+ 1)
        } while region.published(queue) != ends[queue].consumed
    }

    private mutating func takeAnswer(_ queue: Int) throws {
        // A response, at the beginning of the slot.
        let slot = unsafe region.slot(queue, ends[queue].consumed)
        let (identifier, operation, status) = unsafe (
            slot.load(as: UInt64.self), slot.load(fromByteOffset: 8, as: UInt8.self),
            slot.load(fromByteOffset: 10, as: Int16.self)
        )
        ends[queue].consumed &+= 1
        let page = Int(identifier & 0xff)
        let place = page - queue * Int(BlockRegion.entries)
        guard ends[queue].open.indices.contains(place), let request = ends[queue].open[place],
            RequestWriter.identifier(page, request.serial) == identifier
        else { throw Failure("an answer to \(String(identifier, radix: 16)), which is not open") }
        guard operation == request.operation else {
            throw Failure("an answer to operation \(operation), and not to \(request.operation)")
        }
        guard status == 0 else { throw Failure("status \(status) for operation \(operation)") }
        time += 1
        try end(request, page)
        ends[queue].open[place] = nil
        openCount -= 1
        answered += 1
    }

    private mutating func end(_ request: Open, _ page: Int) throws {
        for (place, sector) in zip(request.places, request.sectors) {
            let isWrite = request.operation != 0
            let write = try isWrite ? request.serial : read(page, place, sector)
            history.note(write, sector: sector, isWrite: isWrite, from: request.start, to: time)
        }
    }

    private func read(_ page: Int, _ place: Int, _ sector: Int) throws -> UInt32 {
        // A sector of the page.
        guard let memory = unsafe region.page(UInt32(page)),
            let word = unsafe Content.word(memory + place * BlockRegion.sectorBytes)
        else { throw Failure("a read of sector \(sector) is torn") }
        guard let write = Content.write(word, sector: sector) else {
            throw Failure("a read of sector \(sector) brings \(String(word, radix: 16))")
        }
        return write
    }

    /// All is answered, and what the disk holds is the end of a history that can be.
    mutating func finish() throws {
        guard openCount == 0 else {
            let isSilent = ends.indices.contains { region.published($0) != ends[$0].consumed }
            throw Failure(isSilent ? "answers that the guest does not hear of" : "\(openCount) requests are lost")
        }
        time += 2
        for sector in 0..<BlockRegion.sectors {
            guard let word = unsafe Content.word(region.disk(sector: sector)),
                let write = Content.write(word, sector: sector)
            else { throw Failure("sector \(sector) is torn") }
            history.note(write, sector: sector, isWrite: false, from: time, to: time)
        }
        if let contradiction = history.contradiction() { throw Failure(contradiction) }
    }
}
