import CXen
import Descriptors
import Loopback
import ScenarioWorld
import SharedRing
import XenWire

/// A well-behaved blkfront that trusts nothing: it checks every answer as Linux' does, and every sector that it reads.
final class Frontend {
    /// A request that was put and not yet answered.
    struct Open {
        var operation: UInt8
        var kind: Workload.Kind
        var segments: [ClosedRange<UInt8>]
        var pages: [Int]
        var tablePages: [Int]
        var sectors: Range<Int>
        /// The number of the write, for those that change something.
        var write: UInt32?
        /// The ring index.
        var position: UInt32
        /// When it was shown to the backend.
        var issued = Int.max
    }

    let ring: GuestRing
    private let disk: Disk
    private let pages: Pages
    private let workload: Workload
    private let complain: (String) -> Void
    private(set) var open: [UInt64: Open] = [:]
    private var unpublished: [UInt64] = []
    private var nextIdentifier: UInt64
    /// Requests still to be put.
    private(set) var remaining: Int
    /// Requests answered with each status.
    private(set) var okay = 0
    private(set) var errors = 0
    /// Ring positions of answered requests.
    private(set) var answeredPositions: Set<UInt32> = []
    /// Errors are expected from this volume.
    var toleratesErrors = false
    /// A flush must never be answered with an error; it must not be answered at all once one has failed.
    private(set) var flushErrors = 0
    /// What each write did, for checks of ordering.
    private(set) var writes: [WriteRecord] = []

    /// A write as the guest saw it.
    struct WriteRecord {
        let write: UInt32
        let position: UInt32
        let isBarrier: Bool
        let issued: Int
        let ended: Int
        let sectors: Range<Int>
        let succeeded: Bool
    }

    init(
        _ scenario: Scenario, queue: Int, _ disk: Disk, _ domain: GuestDomain, complain: @escaping (String) -> Void
    ) throws(Fault) {
        self.disk = disk
        self.complain = complain
        workload = Workload(scenario: scenario)
        remaining = scenario.requests
        nextIdentifier = 0x0123_4567_89ab_cdef &* UInt64(queue + 1)
        ring = try GuestRing(domain, abi: scenario.abi, pages: scenario.ringPages, startingAt: scenario.firstIndex)
        pages = try Pages(domain, count: scenario.dataPages)
    }

    // MARK: Actors

    /// Enough free pages for the largest request.
    var mayPut: Bool {
        remaining > 0 && open.count < workload.scenario.depth && ring.free > 0
            && pages.available >= max(workload.scenario.indirectSegments, 11) + 1
    }
    var mustPublish: Bool { !unpublished.isEmpty }
    var hasEvent: Bool { ring.hasEvent }
    /// Everything was put and answered.
    var isDone: Bool { remaining == 0 && open.isEmpty }

    /// Stops putting requests.
    func giveUp() { remaining = 0 }

    func put(_ simulation: Simulation) {
        let kind = workload.kind(&simulation.random)
        var segments = workload.segments(kind, &simulation.random)
        var total = segments.reduce(0) { $0 + $1.count }
        while total > disk.sectors { total -= segments.removeLast().count }
        if kind == .discard { total = 1 + simulation.random.below(40) }
        let start = workload.start(sectors: total, &simulation.random)
        put(kind, segments, start..<start + total)
        remaining -= 1
    }

    func publish(_ simulation: Simulation) {
        for identifier in unpublished { issue(identifier, at: simulation.steps) }
        unpublished.removeAll()
        ring.publish()
    }

    func serve(_ simulation: Simulation) {
        let makesSense = ring.serve { response in take(response, simulation) }
        if !makesSense { complain("the backend's producer index makes no sense") }
    }

    // MARK: Putting

    private func put(_ kind: Workload.Kind, _ segments: [ClosedRange<UInt8>], _ sectors: Range<Int>) {
        let reads = kind == .read || kind == .indirectRead
        var request = Open(
            operation: Self.operation(kind), kind: kind, segments: segments,
            pages: segments.map { _ in pages.take(readOnly: !reads) }, tablePages: [], sectors: sectors, write: nil,
            position: ring.produced)
        if !reads && kind != .flush { request.write = disk.oracle.number(isDiscard: kind == .discard) }
        prepare(request)
        let identifier = nextIdentifier
        nextIdentifier &+= 0x1_0000_0001
        var raw = RawRequest(operation: request.operation, identifier: identifier, sector: UInt64(sectors.lowerBound))
        describe(&request, &raw)
        ring.put(raw)
        open[identifier] = request
        unpublished.append(identifier)
    }

    private static func operation(_ kind: Workload.Kind) -> UInt8 {
        switch kind {
        case .read, .indirectRead: 0
        case .write, .indirectWrite: 1
        case .barrier: 2
        case .flush, .flushWithData: 3
        case .discard: 5
        }
    }

    /// Fills the pages: with the write's own content, or with poison that the read must replace.
    private func prepare(_ request: Open) {
        var sector = request.sectors.lowerBound
        for (page, range) in zip(request.pages, request.segments) {
            pages.poison(page)
            guard let write = request.write else { continue }
            for index in range.lowerBound...range.upperBound {
                pages.fill(page, sector: index, SectorOracle.Content.word(write: write, sector: sector))
                sector += 1
            }
        }
    }

    private func describe(_ request: inout Open, _ raw: inout RawRequest) {
        let segments = zip(request.pages, request.segments).map { page, range in
            RawRequest.Segment(reference: pages.reference(page), first: range.lowerBound, last: range.upperBound)
        }
        switch request.kind {
        case .indirectRead, .indirectWrite:
            let table = pages.take(readOnly: true)
            request.tablePages = [table]
            for (index, segment) in segments.enumerated() {
                unsafe RawRequest.encode(segment, into: pages.memory(table) + 8 * index)
            }
            raw.operation = 6
            raw.second = request.operation
            raw.indirectCount = UInt16(segments.count)
            raw.indirectPages = [pages.reference(table)]
        case .discard: raw.discardSectors = UInt64(request.sectors.count)
        default:
            raw.second = UInt8(segments.count)
            raw.segments = segments
        }
    }

    private func issue(_ identifier: UInt64, at time: Int) {
        open[identifier]?.issued = time
        guard let request = open[identifier], let write = request.write else { return }
        let touched = request.kind == .discard ? disk.discardable(request.sectors) : request.sectors
        disk.oracle.issued(write, touched, at: time)
    }

    // MARK: Answers

    private func take(_ response: RawResponse, _ simulation: Simulation) {
        simulation.note(response.identifier)
        simulation.note(UInt64(bitPattern: Int64(response.status)))
        guard let request = open.removeValue(forKey: response.identifier) else {
            return complain("response for unknown or answered id \(response.identifier)")
        }
        answeredPositions.insert(request.position)
        if response.operation != request.operation {
            complain("operation \(response.operation) in the response to \(request.kind)")
        }
        judge(request, response.status, simulation)
        for page in request.pages + request.tablePages {
            if !pages.revoke(page) { complain("a grant of \(request.kind) is still in use") }
            pages.give(page)
        }
    }

    private func judge(_ request: Open, _ status: Int16, _ simulation: Simulation) {
        if status == 0 { okay += 1 } else { errors += 1 }
        if status != 0, request.kind == .flush { flushErrors += 1 }
        if status != 0, !toleratesErrors { complain("status \(status) for \(request.kind) \(request.sectors)") }
        if let write = request.write {
            disk.oracle.ended(write, at: simulation.steps, succeeded: status == 0)
            writes.append(
                WriteRecord(
                    write: write, position: request.position, isBarrier: request.kind == .barrier,
                    issued: request.issued, ended: simulation.steps, sectors: request.sectors, succeeded: status == 0))
        }
        guard status == 0 else { return }
        if request.write == nil { checkPages(request, at: simulation.steps) }
        if request.kind == .flush || request.kind == .barrier || request.kind == .flushWithData {
            checkDurable(request, at: simulation.steps)
        }
    }

    /// Every sector of a read, and that nothing beside them was touched.
    private func checkPages(_ request: Open, at time: Int) {
        var sector = request.sectors.lowerBound
        for (page, range) in zip(request.pages, request.segments) {
            for index in range.lowerBound...range.upperBound {
                checkSector(pages.word(page, sector: index), sector, request, at: time)
                sector += 1
            }
            if !pages.isPoisoned(page, beside: range) { complain("a read wrote beside its segment") }
        }
    }

    private func checkSector(_ word: UInt64?, _ sector: Int, _ request: Open, at time: Int) {
        guard let word else { return complain("sector \(sector) is torn") }
        if !disk.oracle.allows(word, sector: sector, issued: request.issued, ended: time) {
            complain("sector \(sector) reads \(String(word, radix: 16)), issued \(request.issued), ended \(time)")
        }
    }

    private func checkDurable(_ request: Open, at time: Int) {
        if let sector = disk.firstSectorNotDurable(issued: request.issued, ended: time) {
            complain("sector \(sector) is not durable after \(request.kind)")
        }
    }
}
