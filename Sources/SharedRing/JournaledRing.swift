internal import CXen

/// What lies in a journal's body, read as if a guest had written it: R1 to R5 of the recovery.
///
/// Every step can be repeated: a process that is killed in the middle leaves what the next one can read.
@safe struct JournaledRing {
    private let base: UnsafeMutableRawPointer
    private let entries: Int
    private let abi: UInt8

    /// - Parameter base: memory of at least `InFlightTable.bytes`, which nobody else writes; it outlives the value.
    init(_ base: UnsafeMutableRawPointer, entries: UInt16, abi: UInt8) {
        unsafe self.base = base
        self.entries = Int(entries)
        self.abi = abi
    }

    struct Recovered {
        /// Entries that are free.
        var free: [UInt16] = []
        /// `req_cons`, extended: the sequence of the next request.
        var consumed: UInt64
    }

    /// An entry's commit word and its response's number.
    private struct Entry {
        let index: UInt16
        let tag: UInt64
        let response: UInt32

        var state: InFlightTable.State? { InFlightTable.State(rawValue: tag & 3) }
        var sequence: UInt64 { tag >> 2 }
    }

    func recover(published: UInt32) throws(JournalRefusal) -> Recovered {
        try checkHeader()
        let found = (0..<entries).map { entry(UInt16($0)) }
        try checkPublication(found, published)
        // R3: first of all, so that a kill in the next steps finds the same again.
        unsafe xen_store_release(base + 16, published)
        let open = found.filter { isOpen($0, published) }
        let consumed = try consumed(open, published)
        settle(found, published)
        // R5
        unsafe xen_store_release64(base + 24, consumed)
        let busy = Set(open.map(\.index))
        return Recovered(free: (0..<UInt16(entries)).filter { !busy.contains($0) }, consumed: consumed)
    }

    private func checkHeader() throws(JournalRefusal) {
        guard unsafe xen_load_acquire64(base) == InFlightTable.magic else { throw .contradicts("no table in it") }
        let (count, layout) = unsafe (
            base.load(fromByteOffset: 8, as: UInt32.self), base.load(fromByteOffset: 12, as: UInt8.self)
        )
        guard count == UInt32(entries) else { throw .contradicts("\(count) entries, and \(entries) slots") }
        guard layout == abi else { throw .contradicts("request layout \(layout), and not \(abi)") }
    }

    private func entry(_ index: UInt16) -> Entry {
        let entry = unsafe base + InFlightTable.headerSize + Int(index) * InFlightTable.entrySize
        return unsafe Entry(
            index: index, tag: xen_load_relaxed64(entry), response: xen_load_relaxed(entry + 8))
    }

    /// R2: the ring's `rsp_prod` is what was committed last, or what was about to be committed.
    private func checkPublication(_ found: [Entry], _ published: UInt32) throws(JournalRefusal) {
        let committed = unsafe xen_load_relaxed(base + 16)
        var intended = committed
        for entry in found where entry.state == .answered {
            // Behind it: of a process that was killed when it freed its entries.
            let distance = Int32(bitPattern: entry.response &- committed)
            guard -entries..<entries ~= Int(distance) else { throw .contradicts("an answer far from the ring's") }
            if distance >= Int32(bitPattern: intended &- committed) { intended = entry.response &+ 1 }
        }
        guard published == committed || published == intended else {
            throw .contradicts("rsp_prod \(published) is neither \(committed) nor \(intended)")
        }
    }

    /// R4: answered and visible is over; answered and not visible was not answered.
    private func isOpen(_ entry: Entry, _ published: UInt32) -> Bool {
        switch entry.state {
        case .free: false
        case .inFlight: true
        case .answered, nil: Int32(bitPattern: entry.response &- published) >= 0
        }
    }

    /// R5, checked: as many requests are open as were taken and not answered, each of them once.
    private func consumed(_ open: [Entry], _ published: UInt32) throws(JournalRefusal) -> UInt64 {
        guard open.allSatisfy({ $0.state != nil }) else { throw .contradicts("an entry of no state") }
        let noted = unsafe xen_load_relaxed64(base + 24)
        let (last, isWhole) = open.reduce((noted, true)) {
            (max($0.0, $1.sequence &+ 1), $0.1 && $1.sequence < 1 << 62)
        }
        guard isWhole, last &- noted <= UInt64(entries), last < 1 << 62 else {
            throw .contradicts("a request that was not taken")
        }
        guard Set(open.map(\.sequence)).count == open.count else { throw .contradicts("a request twice") }
        guard UInt32(truncatingIfNeeded: last) &- published == UInt32(open.count) else {
            throw .contradicts("\(open.count) open requests between \(published) and \(last)")
        }
        return last
    }

    private func settle(_ found: [Entry], _ published: UInt32) {
        for entry in found where entry.state != .inFlight {
            let isOpen = isOpen(entry, published)
            let state: InFlightTable.State = isOpen ? .inFlight : .free
            let tag = isOpen ? entry.sequence << 2 | state.rawValue : state.rawValue
            // One of the table's entries. A kill may have come between its release and that of its mark.
            let place = unsafe base + InFlightTable.headerSize + Int(entry.index) * InFlightTable.entrySize
            unsafe xen_store_release64(place, tag)
            // Only then: an answered entry of response 0 would contradict the ring, if we are killed here.
            if !isOpen { unsafe xen_store_release64(place + 8, 0) }
        }
    }
}
