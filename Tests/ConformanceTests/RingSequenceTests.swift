import CXen
import CXenReference
import SharedRing
import Testing
import XenWire

#if canImport(Glibc)
    import Glibc
#endif

/// Where the rings and the macros went apart.
struct Disagreement: Error, CustomStringConvertible {
    let what: String
    let description: String
}

/// Our rings on one shared page, ring.h's on another, driven by the same random operations.
@safe struct RingTrial: ~Copyable {
    private let macros: reference_abi
    private let ours: SharedPages
    private let theirs: SharedPages
    private var back: BackRing
    private var front: FrontRing
    private var referenceBack: reference_ring
    private var referenceFront: reference_ring
    private var random: SplitMix64
    private let requestBytes: Int
    private let responseBytes: Int
    /// Whether ends arm even while work is waiting, which RING_FINAL_CHECK never does. Then event indices may differ
    /// between the pages, but no decision may.
    private let armsEarly: Bool

    init(_ abi: BlockABI, pages: Int, startingAt index: UInt32, seed: UInt64, armsEarly: Bool) {
        macros = abi.reference
        ours = SharedPages(pages)
        theirs = SharedPages(pages)
        let entries = abi.entries(pages: pages)
        front = unsafe FrontRing(
            initialising: ours.base, entries: entries, entrySize: abi.entrySize, startingAt: index)
        back = unsafe BackRing(base: ours.base, entries: entries, entrySize: abi.entrySize, startingAt: index)
        unsafe macros.initialise_shared(theirs.base, index)
        unsafe referenceFront = macros.attach(theirs.base, UInt32(pages), index)
        unsafe referenceBack = macros.attach(theirs.base, UInt32(pages), index)
        random = SplitMix64(seed: seed)
        requestBytes = Int(macros.request_bytes)
        responseBytes = Int(macros.response_bytes)
        self.armsEarly = armsEarly
    }

    mutating func run(steps: Int) throws(Disagreement) {
        for step in 0..<steps {
            try self.step()
            try compareIndices()
            try compareMemory(everything: step % 64 == 63 || step == steps - 1)
        }
    }

    private mutating func step() throws(Disagreement) {
        switch Int.random(in: 0..<14, using: &random) {
        case 0, 1: try putRequests()
        case 2, 3: try publishRequests()
        case 4, 5: try takeRequests()
        case 6, 7: try putResponses()
        case 8: try publishResponses()
        case 9: try takeResponses()
        case 10: try armBack()
        case 11: try armFront()
        case 12: try lookAtWildIndices()
        default: moveEvents()
        }
    }

    // MARK: The frontend's operations

    private mutating func putRequests() throws(Disagreement) {
        let free = unsafe macros.free_requests(referenceFront)
        try agree("free", front.free, free)
        for _ in 0..<UInt32.random(in: 0...free, using: &random) {
            let slot = unsafe front.requestSlot()
            let offset = unsafe Int(macros.request_offset(referenceFront, referenceFront.produced))
            try unsafe agree("request slot", slot - ours.base, offset)
            fill(offset, requestBytes)
            unsafe referenceFront.produced &+= 1
        }
    }

    private mutating func publishRequests() throws(Disagreement) {
        let notify = unsafe macros.push_requests(referenceFront) != 0
        try agree("notify backend", front.publish(), notify)
    }

    private mutating func takeResponses() throws(Disagreement) {
        let waiting = unsafe macros.unconsumed_responses(referenceFront)
        try agree("responses waiting", front.waiting(), waiting)
        for _ in 0..<UInt32.random(in: 0...waiting, using: &random) {
            let slot = unsafe front.takeSlot()
            let offset = unsafe Int(macros.response_offset(referenceFront, referenceFront.consumed))
            try unsafe agree("response taken from", UnsafeMutableRawPointer(mutating: slot) - ours.base, offset)
            try agreeOnSlot(offset, responseBytes)
            unsafe referenceFront.consumed &+= 1
        }
    }

    private mutating func armFront() throws(Disagreement) {
        let work = unsafe macros.final_check_responses(referenceFront) != 0
        let maySleep = armsEarly || front.waiting() == 0 ? front.arm() : false
        try agree("frontend may sleep", maySleep, !work)
    }

    // MARK: The backend's operations

    private mutating func takeRequests() throws(Disagreement) {
        let waiting = unsafe macros.unconsumed_requests(referenceBack)
        try agree("requests waiting", back.waiting(), waiting)
        for _ in 0..<UInt32.random(in: 0...waiting, using: &random) {
            let slot = unsafe back.takeSlot()
            let offset = unsafe Int(macros.request_offset(referenceBack, referenceBack.consumed))
            try unsafe agree("request taken from", UnsafeMutableRawPointer(mutating: slot) - ours.base, offset)
            try agreeOnSlot(offset, requestBytes)
            unsafe referenceBack.consumed &+= 1
        }
    }

    private mutating func putResponses() throws(Disagreement) {
        let open = back.consumed &- back.produced
        for _ in 0..<UInt32.random(in: 0...open, using: &random) {
            let slot = unsafe back.responseSlot()
            let offset = unsafe Int(macros.response_offset(referenceBack, referenceBack.produced))
            try unsafe agree("response slot", slot - ours.base, offset)
            fill(offset, responseBytes)
            unsafe referenceBack.produced &+= 1
        }
    }

    private mutating func publishResponses() throws(Disagreement) {
        let notify = unsafe macros.push_responses(referenceBack) != 0
        try agree("notify frontend", back.publish(), notify)
    }

    private mutating func armBack() throws(Disagreement) {
        let work = unsafe macros.final_check_requests(referenceBack) != 0
        let maySleep = armsEarly || back.waiting() == 0 ? back.arm() : false
        try agree("backend may sleep", maySleep, !work)
    }

    // MARK: What a hostile or an economical other end does

    /// Producer indices of every kind, put in place and taken away again.
    private mutating func lookAtWildIndices() throws(Disagreement) {
        try lookAtWildRequests()
        try lookAtWildResponses()
    }

    private mutating func lookAtWildRequests() throws(Disagreement) {
        let claimed = wildIndex(around: back.consumed)
        let honest = ours.load(Int(XEN_RING_REQ_PROD))
        store(claimed, Int(XEN_RING_REQ_PROD))
        let overflows = unsafe macros.request_prod_overflow(referenceBack, claimed) != 0
        // The macro lets an index pass that moved back behind what was taken; nothing on such a ring can be trusted.
        let movedBack = claimed &- back.produced < back.consumed &- back.produced
        let expected = unsafe overflows || movedBack ? nil : macros.unconsumed_requests(referenceBack)
        try agree("wild req_prod \(claimed)", back.waiting(), expected)
        store(honest, Int(XEN_RING_REQ_PROD))
    }

    private mutating func lookAtWildResponses() throws(Disagreement) {
        let claimed = wildIndex(around: front.consumed)
        let honest = ours.load(Int(XEN_RING_RSP_PROD))
        store(claimed, Int(XEN_RING_RSP_PROD))
        let overflows = unsafe macros.response_prod_overflow(referenceFront, claimed) != 0
        // Narrower than the macro: no more responses than published requests.
        let unasked = claimed &- front.consumed > ours.load(Int(XEN_RING_REQ_PROD)) &- front.consumed
        let expected = unsafe overflows || unasked ? nil : macros.unconsumed_responses(referenceFront)
        try agree("wild rsp_prod \(claimed)", front.waiting(), expected)
        store(honest, Int(XEN_RING_RSP_PROD))
    }

    private mutating func wildIndex(around index: UInt32) -> UInt32 {
        switch Int.random(in: 0..<3, using: &random) {
        case 0: index &+ UInt32.random(in: 0...(back.size + 2), using: &random)
        case 1: index &- UInt32.random(in: 1...(back.size + 2), using: &random)
        default: UInt32.random(in: .min ... .max, using: &random)
        }
    }

    /// Either end may ask for its event later than at the next message (ring.h: "batches of work").
    private mutating func moveEvents() {
        // An end that arms early gives up what it had asked for later.
        guard !armsEarly else { return }
        let ahead = UInt32.random(in: 0...back.size, using: &random)
        if Bool.random(using: &random) {
            store(back.consumed &+ ahead, Int(XEN_RING_REQ_EVENT))
        } else {
            store(front.consumed &+ ahead, Int(XEN_RING_RSP_EVENT))
        }
    }

    // MARK: Comparing

    private func store(_ value: UInt32, _ offset: Int) {
        ours.store(value, offset)
        theirs.store(value, offset)
    }

    /// The same random message in both pages; `offset` is ring.h's, within the pages.
    private mutating func fill(_ offset: Int, _ bytes: Int) {
        var done = 0
        while done < bytes {
            store(UInt32(truncatingIfNeeded: random.next()), offset + done)
            done += 4
        }
    }

    private func agreeOnSlot(_ offset: Int, _ bytes: Int) throws(Disagreement) {
        let same = unsafe memcmp(ours.base + offset, theirs.base + offset, bytes) == 0
        try agree("message at \(offset)", same, true)
    }

    private func compareIndices() throws(Disagreement) {
        try unsafe agree("req_prod_pvt", front.produced, referenceFront.produced)
        try unsafe agree("rsp_cons", front.consumed, referenceFront.consumed)
        try unsafe agree("rsp_prod_pvt", back.produced, referenceBack.produced)
        try unsafe agree("req_cons", back.consumed, referenceBack.consumed)
    }

    private func compareMemory(everything: Bool) throws(Disagreement) {
        for index in [XEN_RING_REQ_PROD, XEN_RING_RSP_PROD] {
            try agree("shared index \(index)", ours.load(Int(index)), theirs.load(Int(index)))
        }
        guard !armsEarly else { return }
        let bytes = everything ? ours.bytes : Int(XEN_RING_ENTRIES)
        let same = unsafe memcmp(ours.base, theirs.base, bytes) == 0
        try agree("shared pages", same, true)
    }

    private func agree<Value: Equatable>(_ what: String, _ ours: Value, _ theirs: Value) throws(Disagreement) {
        guard ours != theirs else { return }
        throw Disagreement(what: what, description: "\(what): ours \(ours), ring.h \(theirs)")
    }
}

/// One run of `RingTrial`.
struct RingCase: Sendable, CustomTestStringConvertible {
    let abi: BlockABI
    let pages: Int
    let start: UInt32
    let armsEarly: Bool
    var seed: UInt64 { UInt64(pages) << 32 | UInt64(start) ^ UInt64(abi.rawValue) << 60 }
    var testDescription: String { "\(abi), \(pages) pages from \(start), armsEarly \(armsEarly)" }

    static let all: [RingCase] = BlockABI.allCases.flatMap { abi in
        (1...16).flatMap { pages in
            [UInt32(0), 0xffff_fff0].flatMap { start in
                [false, true].map { RingCase(abi: abi, pages: pages, start: start, armsEarly: $0) }
            }
        }
    }
}

@Suite struct RingSequenceTests {
    /// 128 cases of 1,000 steps.
    @Test(arguments: RingCase.all) func ringsDecideAsTheMacrosDo(ring: RingCase) {
        var trial = RingTrial(
            ring.abi, pages: ring.pages, startingAt: ring.start, seed: ring.seed, armsEarly: ring.armsEarly)
        do throws(Disagreement) {
            try trial.run(steps: 1000)
        } catch {
            Issue.record("seed \(ring.seed): \(error)")
        }
    }
}
