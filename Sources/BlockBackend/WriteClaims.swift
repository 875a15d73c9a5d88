internal import CLinux
internal import CXen
internal import SharedRing
internal import Synchronization

/// Which sectors of a device are being changed by requests that are not answered yet: of two writes that overlap only one
/// is ever under way, on whichever queues, until its answer is published.
///
/// That is what lets a request be done again after a kill: between its first and its last execution nothing else has
/// changed its sectors. (It also is what read-modify-write and barriers need.)
///
/// A bit stands for a sector, a word for 64 of them, and words are shared by stretches of the device far from each other:
/// two writes that do not overlap may rarely be taken for two that do. The later of them then waits for the earlier.
@safe final class WriteClaims: Sendable {
    nonisolated(unsafe) private let words: UnsafeMutablePointer<UInt64>
    /// Sectors of the volume's unit of change, minus 1: claims are rounded to it.
    private let unitMask: UInt64
    /// More than one queue claims.
    private let isShared: Int32
    /// The claimant that waits and goes first, plus 1: nobody else claims meanwhile, or a large claim would wait for ever.
    private let first = Atomic<UInt32>(0)
    /// Claimants that wait, as bits.
    private let waiting = Atomic<UInt32>(0)
    /// An eventfd for each claimant, or -1.
    nonisolated(unsafe) private let wakeups: UnsafeMutablePointer<UInt32>
    private let queues: Int

    private static let wordBits = 13
    static let wordCount = 1 << wordBits
    /// Words of a claim at most: beyond that it takes the whole table. No two words of such a claim are the same in the
    /// table, since multiples of the golden ratio keep apart.
    static let widest: UInt64 = 2048

    /// - Parameters:
    ///   - unit: bytes, a power of two: what the volume changes at once (its physical block).
    ///   - queues: that claim.
    init(unit: UInt32, queues: Int) {
        unitMask = UInt64(max(unit, 512) / 512) - 1
        isShared = queues > 1 ? 1 : 0
        unsafe words = .allocate(capacity: Self.wordCount)
        unsafe words.initialize(repeating: 0, count: Self.wordCount)
        self.queues = min(max(queues, 1), 32)
        unsafe wakeups = .allocate(capacity: self.queues)
        unsafe wakeups.initialize(repeating: .max, count: self.queues)
    }

    deinit {
        unsafe words.deallocate()
        unsafe wakeups.deallocate()
    }

    /// The eventfd by which a claimant that waits is woken; it outlives the claims.
    func attach(_ claimant: Int, wakeup: Int32) {
        guard claimant < queues else { return }
        unsafe xen_store_release(wakeups + claimant, UInt32(bitPattern: wakeup))
    }

    /// Claims sectors; false if one of them is taken, and then the claimant is woken when it is worth to try again.
    @inline(__always) func take(_ extent: ClaimedExtent, by claimant: Int) -> Bool {
        if isShared == 0 { return set(extent, claimant) }
        return takeShared(extent, claimant)
    }

    @inline(never) private func takeShared(_ extent: ClaimedExtent, _ claimant: Int) -> Bool {
        let mark = UInt32(claimant) &+ 1
        let turn = first.load(ordering: .sequentiallyConsistent)
        if turn == 0 || turn == mark, set(extent, claimant) { return goneAhead(turn == mark) }
        // Announced before the second look at both: whoever goes ahead, or frees sectors, after it sees that somebody waits.
        // Looking at `first` before that would miss a claimant that goes ahead and is done in between (Tests/Models/claims.pml).
        waiting.bitwiseOr(1 << UInt32(claimant), ordering: .sequentiallyConsistent)
        let (isFirst, holder) = first.compareExchange(
            expected: 0, desired: mark, ordering: .sequentiallyConsistent)
        guard isFirst || holder == mark, set(extent, claimant) else { return false }
        return goneAhead(true)
    }

    private func goneAhead(_ wasFirst: Bool) -> Bool {
        guard wasFirst else { return true }
        first.store(0, ordering: .sequentiallyConsistent)
        wake()
        return true
    }

    /// Frees sectors that were claimed; the response of their request is published.
    @inline(__always) func release(_ extent: ClaimedExtent) {
        clear(extent)
        if isShared != 0, waiting.load(ordering: .sequentiallyConsistent) != 0 { wake() }
    }

    /// A claimant ends that may be the one which goes first.
    func leave(_ claimant: Int) {
        let mark = UInt32(claimant) &+ 1
        let (wasFirst, _) = first.compareExchange(expected: mark, desired: 0, ordering: .sequentiallyConsistent)
        if wasFirst { wake() }
    }

    /// Wakes all claimants, whatever they wait for.
    func wakeAll() { wake(.max) }

    @inline(never) private func wake() { wake(waiting.exchange(0, ordering: .sequentiallyConsistent)) }

    /// What this claimant has taken back may be what another one has just found taken, which nobody else would tell it.
    private func wakeOthers(_ claimant: Int) {
        let own: UInt32 = 1 << UInt32(claimant)
        guard isShared != 0, waiting.load(ordering: .sequentiallyConsistent) & ~own != 0 else { return }
        wake(waiting.bitwiseAnd(own, ordering: .sequentiallyConsistent).oldValue & ~own)
    }

    private func wake(_ claimants: UInt32) {
        for claimant in 0..<queues where claimants & 1 << UInt32(claimant) != 0 {
            // One of `queues` words.
            linux_eventfd_signal(Int32(bitPattern: unsafe xen_load_acquire(wakeups + claimant)))
        }
    }

    // MARK: the table

    /// Sectors rounded to the volume's unit, as words and the bits in the first and the last of them.
    private struct Span {
        let firstWord: UInt64
        let lastWord: UInt64
        let firstBits: UInt64
        let lastBits: UInt64

        @inline(__always) init(_ extent: ClaimedExtent, _ unitMask: UInt64) {
            let start = extent.start & ~unitMask
            // The end lies on the device, so nothing overflows.
            let last = (extent.start &+ extent.count &- 1) | unitMask
            firstWord = start >> 6
            lastWord = last >> 6
            firstBits = UInt64.max << (start & 63)
            lastBits = UInt64.max >> (63 &- last & 63)
        }

        @inline(__always) func bits(_ word: UInt64) -> UInt64 {
            (word == firstWord ? firstBits : .max) & (word == lastWord ? lastBits : .max)
        }
    }

    @inline(__always) private func set(_ extent: ClaimedExtent, _ claimant: Int) -> Bool {
        let span = Span(extent, unitMask)
        guard span.firstWord == span.lastWord else { return setMany(span, claimant) }
        return unsafe xen_claim_bits(place(span.firstWord), span.firstBits & span.lastBits, isShared) != 0
    }

    @inline(__always) private func clear(_ extent: ClaimedExtent) {
        let span = Span(extent, unitMask)
        guard span.firstWord == span.lastWord else { return clearMany(span) }
        unsafe xen_unclaim_bits(place(span.firstWord), span.firstBits & span.lastBits, isShared)
    }

    /// All or nothing.
    @inline(never) private func setMany(_ span: Span, _ claimant: Int) -> Bool {
        guard span.lastWord &- span.firstWord < Self.widest else { return setAll(claimant) }
        var word = span.firstWord
        while word <= span.lastWord {
            guard unsafe xen_claim_bits(place(word), span.bits(word), isShared) != 0 else {
                let isTakenBack = word > span.firstWord
                while word > span.firstWord {
                    word &-= 1
                    unsafe xen_unclaim_bits(place(word), span.bits(word), isShared)
                }
                if isTakenBack { wakeOthers(claimant) }
                return false
            }
            word &+= 1
        }
        return true
    }

    @inline(never) private func clearMany(_ span: Span) {
        guard span.lastWord &- span.firstWord < Self.widest else { return clearAll(Self.wordCount) }
        for word in span.firstWord...span.lastWord {
            unsafe xen_unclaim_bits(place(word), span.bits(word), isShared)
        }
    }

    private func setAll(_ claimant: Int) -> Bool {
        for index in 0..<Self.wordCount {
            guard unsafe xen_claim_bits(words + index, .max, isShared) != 0 else {
                clearAll(index)
                if index > 0 { wakeOthers(claimant) }
                return false
            }
        }
        return true
    }

    private func clearAll(_ count: Int) {
        for index in 0..<count { unsafe xen_unclaim_bits(words + index, .max, isShared) }
    }

    /// Fibonacci hashing: neighbours are spread evenly, so that what is written in steps of a power of two does not meet.
    @inline(__always) private func place(_ word: UInt64) -> UnsafeMutablePointer<UInt64> {
        // `wordBits` bits: always inside the table.
        unsafe words + Int(truncatingIfNeeded: (word &* 0x9E37_79B9_7F4A_7C15) >> UInt64(64 - Self.wordBits))
    }
}

/// Sectors that a request changes.
struct ClaimedExtent: BitwiseCopyable {
    var start: UInt64 = 0
    /// At least 1 of a claim; 0: none is held.
    var count: UInt64 = 0

    /// What a barrier claims.
    static var device: ClaimedExtent { ClaimedExtent(start: 0, count: .max >> 1) }
}
