import BlockBackend
import Descriptors
import Loopback
import SharedRing
import XenWire

/// What the guests of a device know together.
final class TortureRecord {
    let plan: TorturePlan
    let volume: ModelVolume
    let discards: DiscardModel
    var history: RegisterHistory
    /// Discards that are open, each of other sectors, so that a content tells whose it is.
    var openDiscards: Set<Range<Int>> = []
    var barriers = BarrierOrder()
    /// Steps of the world: what is called time here.
    var now = 0
    var answered = 0
    var refused = 0
    private(set) var complaint: String?

    init(_ plan: TorturePlan) {
        self.plan = plan
        volume = ModelVolume(size: plan.sectors * 512, block: plan.volumeBlock)
        volume.faults.short = plan.short
        volume.faults.failed = plan.failed
        volume.faults.transient = plan.transient
        discards = DiscardModel(volume, capacity: plan.discardCapacity)
        history = RegisterHistory(sectors: plan.sectors)
        volume.keepsEffects = ordersEffects
        unsafe volume.fill { memory in
            guard let base = memory.baseAddress else { return }
            for sector in 0..<plan.sectors {
                let word = RegisterHistory.Content.word(write: RegisterHistory.making, sector: sector)
                unsafe Pages.fill(base + sector * 512, word)
            }
        }
    }

    /// With larger blocks an operation's first word is not always the write's own.
    var ordersEffects: Bool { plan.mix.barrier > 0 && plan.volumeBlock == 512 }

    func complain(_ text: String) { complaint = complaint ?? "step \(now): \(text)" }

    func read(_ sector: Int, _ word: UInt64?, began: Int, _ what: String) {
        guard let word else { return complain("\(what): sector \(sector) is torn") }
        if let wrong = history.read(sector, word, began: began, ended: now) { complain("\(what): \(wrong)") }
    }

    /// What would survive a power failure was the content at some moment since the flush was issued.
    func checkDurable(since began: Int) {
        for sector in 0..<plan.sectors { read(sector, volume.words(sector: sector).durable, began: began, "durable") }
    }
}

/// A well-behaved frontend that has requests on the same sectors in flight on purpose.
final class TortureGuest {
    enum Kind { case read, write, flush, flushWithData, barrier, discard }

    /// A request that was put and not answered.
    private struct Open {
        var kind = Kind.read
        var operation: UInt8 = 0
        var sectors = 0..<0
        var segments: [ClosedRange<UInt8>] = []
        var pages: [Int] = []
        var table: Int?
        /// The number of the write, for those that change something.
        var write: Int?
        /// What a discard can touch.
        var discarded = 0..<0
        var issued = Int.max
        var identifier: UInt64 = 0
        var isOpen = false
    }

    let ring: GuestRing
    private let record: TortureRecord
    private let plan: TorturePlan
    private let index: Int
    private let pages: Pages
    private var slots: [Open]
    private var freeSlots: [Int]
    private var unpublished: [Int] = []
    private var serial: UInt64 = 0
    private var remaining: Int

    init(_ record: TortureRecord, queue: Int, _ domain: GuestDomain) throws(Fault) {
        self.record = record
        plan = record.plan
        index = queue
        remaining = record.plan.requests / record.plan.queues
        ring = try GuestRing(
            domain, abi: record.plan.abi, pages: record.plan.ringPages, startingAt: record.plan.firstIndex)
        pages = try Pages(domain, count: Self.pages(record.plan), keepingGrants: record.plan.persistentGrants)
        slots = Array(repeating: Open(), count: Int(ring.size))
        freeSlots = Array((0..<Int(ring.size)).reversed())
    }

    /// Data pages of one guest: not enough for all of its requests to be large.
    static func pages(_ plan: TorturePlan) -> Int {
        plan.depth * 4 + (plan.indirect > 0 ? 2 * plan.indirectSegments : 2 * plan.segments) + 2
    }

    private var largest: Int { max(plan.segments, plan.indirect > 0 ? plan.indirectSegments + 1 : 0) }

    var mayPut: Bool {
        remaining > 0 && openCount < plan.depth && ring.free > 0 && !freeSlots.isEmpty && pages.available >= largest
    }
    var mustPublish: Bool { !unpublished.isEmpty }
    var openCount: Int { slots.count - freeSlots.count }
    var isDone: Bool { remaining == 0 && openCount == 0 }
    var summary: String { "\(openCount) unanswered, \(remaining) not put" }

    // MARK: Putting

    func put(_ random: inout SeededRandom) {
        for _ in 0...random.below(4) where mayPut { putOne(&random) }
        if random.chance(perThousand: 600) { publish() }
    }

    func publish() {
        for slot in unpublished { issue(slot) }
        unpublished.removeAll(keepingCapacity: true)
        ring.publish()
    }

    private func putOne(_ random: inout SeededRandom) {
        remaining -= 1
        guard let slot = freeSlots.popLast() else { return }
        slots[slot].kind = kind(&random)
        slots[slot].isOpen = true
        slots[slot].issued = .max
        serial += 1
        slots[slot].identifier = serial << 16 | UInt64(slot)
        let isIndirect = isData(slots[slot].kind) && random.chance(perThousand: plan.indirect)
        choosePlace(slot, isIndirect, &random)
        choosePages(slot)
        ring.put(raw(slot, isIndirect))
        if record.ordersEffects { record.barriers.put(slots[slot].write, slots[slot].kind == .barrier, queue: index) }
        unpublished.append(slot)
    }

    private func kind(_ random: inout SeededRandom) -> Kind {
        let mix = plan.mix
        var choice = random.below(mix.read + mix.write + mix.flush + mix.flushWithData + mix.barrier + mix.discard)
        for (kind, weight) in [
            (Kind.read, mix.read), (.write, mix.write), (.flush, mix.flush), (.flushWithData, mix.flushWithData),
            (.barrier, mix.barrier),
        ] {
            if choice < weight { return kind }
            choice -= weight
        }
        return .discard
    }

    private func isData(_ kind: Kind) -> Bool { kind == .read || kind == .write }

    private func choosePlace(_ slot: Int, _ isIndirect: Bool, _ random: inout SeededRandom) {
        slots[slot].segments.removeAll(keepingCapacity: true)
        var total = 0
        for _ in 0..<segmentCount(slots[slot].kind, isIndirect, &random) {
            let first = random.chance(perThousand: 500) ? 0 : random.below(8)
            let last = random.chance(perThousand: 500) ? 7 : first + random.below(8 - first)
            guard total + last - first + 1 <= plan.sectors else { break }
            total += last - first + 1
            slots[slot].segments.append(UInt8(first)...UInt8(last))
        }
        if slots[slot].kind == .discard { total = 1 + random.below(min(20, plan.sectors)) }
        let start = random.below(plan.sectors - total + 1)
        slots[slot].sectors = start..<start + total
        if slots[slot].kind == .discard { chooseDiscard(slot) }
    }

    private func segmentCount(_ kind: Kind, _ isIndirect: Bool, _ random: inout SeededRandom) -> Int {
        switch kind {
        case .flush, .discard: 0
        case .barrier: random.below(plan.segments + 1)
        case .read, .write, .flushWithData:
            1 + random.below(isIndirect ? plan.indirectSegments : random.chance(perThousand: 500) ? 1 : plan.segments)
        }
    }

    /// No two open discards have the same sectors: then one that would, has none.
    private func chooseDiscard(_ slot: Int) {
        let sectors = slots[slot].sectors
        slots[slot].discarded = inward(sectors)
        guard !slots[slot].discarded.isEmpty else { return }
        guard record.openDiscards.insert(slots[slot].discarded).inserted else {
            slots[slot].sectors = sectors.lowerBound..<sectors.lowerBound
            slots[slot].discarded = 0..<0
            return
        }
    }

    /// The whole units of a range.
    private func inward(_ range: Range<Int>) -> Range<Int> {
        let (unit, offset) = (Int(plan.discardRules.granularity), Int(plan.discardRules.alignment))
        let first = max(0, (range.lowerBound - offset + unit - 1)) / unit * unit + offset
        let last = range.upperBound < offset ? 0 : (range.upperBound - offset) / unit * unit + offset
        return first < last ? first..<last : 0..<0
    }

    /// Fills the pages with the write's own content, or with poison that the read must replace.
    private func choosePages(_ slot: Int) {
        let kind = slots[slot].kind
        slots[slot].write = nil
        if kind == .discard, !slots[slot].discarded.isEmpty {
            slots[slot].write = record.history.write(slots[slot].discarded)
        } else if kind != .read, !slots[slot].segments.isEmpty {
            slots[slot].write = record.history.write(slots[slot].sectors)
        }
        slots[slot].pages.removeAll(keepingCapacity: true)
        var sector = slots[slot].sectors.lowerBound
        for range in slots[slot].segments {
            let page = pages.take(readOnly: kind != .read)
            slots[slot].pages.append(page)
            fill(page, range, slots[slot].write, &sector)
        }
    }

    private func fill(_ page: Int, _ range: ClosedRange<UInt8>, _ write: Int?, _ sector: inout Int) {
        guard let write else { return pages.poison(page) }
        for place in range {
            pages.fill(page, sector: place, RegisterHistory.Content.word(write: write, sector: sector))
            sector += 1
        }
    }

    private func raw(_ slot: Int, _ isIndirect: Bool) -> RawRequest {
        let request = slots[slot]
        slots[slot].operation = Self.operation(request.kind)
        var raw = RawRequest(
            operation: slots[slot].operation, second: UInt8(request.segments.count), identifier: request.identifier,
            sector: UInt64(request.sectors.lowerBound))
        if request.kind == .discard {
            raw.second = 0
            raw.discardSectors = UInt64(request.sectors.count)
        } else if isIndirect {
            describe(slot, &raw)
        } else {
            raw.segments = zip(request.pages, request.segments).map(segment)
        }
        return raw
    }

    private static func operation(_ kind: Kind) -> UInt8 {
        switch kind {
        case .read: 0
        case .write: 1
        case .barrier: 2
        case .flush, .flushWithData: 3
        case .discard: 5
        }
    }

    private func segment(_ page: Int, _ range: ClosedRange<UInt8>) -> RawRequest.Segment {
        RawRequest.Segment(reference: pages.reference(page), first: range.lowerBound, last: range.upperBound)
    }

    private func describe(_ slot: Int, _ raw: inout RawRequest) {
        let table = pages.take(readOnly: true)
        slots[slot].table = table
        for (index, (page, range)) in zip(slots[slot].pages, slots[slot].segments).enumerated() {
            // At most 512 segments of eight bytes.
            unsafe RawRequest.encode(segment(page, range), into: pages.memory(table) + 8 * index)
        }
        raw.operation = 6
        raw.second = slots[slot].operation
        raw.indirectCount = UInt16(slots[slot].segments.count)
        raw.indirectPages = [pages.reference(table)]
    }

    private func issue(_ slot: Int) {
        slots[slot].issued = record.now
        guard let write = slots[slot].write else { return }
        record.history.issued(write, at: record.now)
        if slots[slot].kind == .discard { record.discards.expect(write, of: slots[slot].discarded) }
        if record.ordersEffects { record.barriers.issued(write, at: record.now) }
    }

    // MARK: Answers

    func serve() {
        if !ring.serve(take) { record.complain("the backend's producer index makes no sense") }
    }

    private func take(_ response: RawResponse) {
        let slot = Int(response.identifier & 0xffff)
        guard slot < slots.count, slots[slot].isOpen, slots[slot].identifier == response.identifier else {
            return record.complain("queue \(index): an answer for id \(response.identifier), which is not open")
        }
        record.answered += 1
        if response.operation != slots[slot].operation {
            record.complain("operation \(response.operation) in the answer to \(slots[slot].kind)")
        }
        judge(slot, response.status)
        giveBack(slot)
    }

    private func judge(_ slot: Int, _ status: Int16) {
        let request = slots[slot]
        if status != 0 { record.refused += 1 }
        let mayFail = plan.faults > 0 || plan.failed > 0 && request.kind != .flush && request.kind != .discard
        if status != 0, !mayFail { record.complain("status \(status) for \(request.kind) \(request.sectors)") }
        if let write = request.write {
            record.history.ended(write, at: record.now, succeeded: status == 0)
            if record.ordersEffects { record.barriers.ended(write, at: record.now) }
        }
        guard status == 0 else { return }
        switch request.kind {
        case .read: checkPages(slot)
        case .flush, .flushWithData, .barrier: record.checkDurable(since: request.issued)
        case .write, .discard: break
        }
    }

    /// Every sector of a read, and that nothing beside them was touched.
    private func checkPages(_ slot: Int) {
        var sector = slots[slot].sectors.lowerBound
        for (page, range) in zip(slots[slot].pages, slots[slot].segments) {
            for place in range {
                record.read(sector, pages.word(page, sector: place), began: slots[slot].issued, "read")
                sector += 1
            }
            if !pages.isPoisoned(page, beside: range) { record.complain("a read wrote beside its segment") }
        }
    }

    private func giveBack(_ slot: Int) {
        slots[slot].isOpen = false
        if slots[slot].kind == .discard { record.openDiscards.remove(slots[slot].discarded) }
        for page in slots[slot].pages { giveBackPage(page) }
        if let table = slots[slot].table { giveBackPage(table) }
        slots[slot].table = nil
        freeSlots.append(slot)
    }

    private func giveBackPage(_ page: Int) {
        if !pages.revoke(page) { record.complain("a grant is still in use") }
        pages.give(page)
    }
}
