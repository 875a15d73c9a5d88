internal import CLinux
internal import CXen
internal import Descriptors
internal import Glibc
internal import NetFrames
internal import SharedRing
internal import Uring
internal import XenWire

// From the TAP device to the guest.
extension NetQueueCore {
    /// Delivers what the TAP device has, as far as the guest has room; true if there was anything.
    mutating func receivePackets() -> Bool {
        seenReceive = receive.requestProducer()
        guard receive.waiting() != nil else {
            violated(.ringOverrun)
            return false
        }
        guard !receive.isEmpty, receiveRest == 0 else { return false }
        rules.follow(policy)
        let first = receive.produced
        var delivered = deliverFrames()
        let hasDelivered = delivered > 0
        // Whatever the guest does to its index meanwhile: without progress it ends.
        while delivered > 0, mayGoOn(receive.produced &- first) { delivered = deliverFrames() }
        announce()
        return hasDelivered
    }

    /// More frames very probably wait, and the guest has room for some: they are delivered with the same event. Half a ring
    /// of them at most, so that the guest can take one half while the other is filled.
    private mutating func mayGoOn(_ answered: UInt32) -> Bool {
        answered < NetRing.slots / 2 && nextRead >= readCount && !isDry && receiveRest == 0 && !receive.isEmpty
    }

    /// Delivers what was read, or reads and delivers; how many frames.
    private mutating func deliverFrames() -> Int {
        // Each takes a slot at least: what cannot be delivered had better wait in the TAP device.
        if nextRead >= readCount { readFrames(Int(receive.waiting() ?? 0)) }
        segmentCount = 0
        deliveryCount = 0
        let first = nextRead
        var room = 0
        deliverPlain()
        while nextRead < readCount, room + FrameMemory.largest <= FrameMemory.capacity, mayReceive(nextRead),
            deliver(nextRead, &room)
        {
            nextRead += 1
            nextIsPaid = false
        }
        if segmentCount > 0 { copySegments(.toGuest) }
        if deliveryCount > 0 { respond() }
        return nextRead - first
    }

    /// Delivers frames up to the first that is more than one page of data, or that somebody has to look at. The short way of what
    /// `deliver` does, for nearly all frames of a flood.
    private mutating func deliverPlain() {
        guard rules.isPlain, now == 0, !nextIsPaid else { return }
        let slots = min(Int(receive.waiting() ?? 0), deliveries.count, readCount - nextRead)
        let (start, first) = (receive.consumed, nextRead)
        var index = 0
        while index < slots {
            let size = size(first &+ index)
            // Where it was read to, with its header.
            let frame = unsafe memory.receptions + Int(frames[first &+ index].offset)
            guard size > 0, size <= FrameMemory.page,
                let flags = unsafe Translation.plainFlags(frame - VirtioHeader.size)
            else { break }
            let request = request(start &+ UInt32(truncatingIfNeeded: index))
            // Nothing was written down before: there is an element of both tables for each slot.
            unsafe segments.element(index).pointee = .toGuest(
                domain, GrantReference(request.gref), offset: 0, length: UInt16(truncatingIfNeeded: size), from: frame)
            unsafe deliveries.element(index).pointee = ReceiveSlot(
                request.id, flags, offset: 0, size, segment: index, isFirst: true)
            index &+= 1
        }
        receive.consume(UInt32(truncatingIfNeeded: index))
        nextRead = first &+ index
        segmentCount = index
        deliveryCount = index
    }

    /// A frame is charged once, however often it is tried.
    private mutating func mayReceive(_ index: Int) -> Bool {
        guard !nextIsPaid else { return true }
        let delay = delay(size(index))
        nextIsPaid = delay == 0
        receiveRest = nextIsPaid ? 0 : now &+ delay
        return nextIsPaid
    }

    mutating func discardBacklog() -> Int {
        var discarded = 0
        // As many as a TAP device may hold (its txqueuelen); more that come meanwhile wait for the next time.
        repeat {
            discarded += readCount - nextRead
            readFrames(FrameMemory.reads)
        } while readCount > 0 && discarded < 1024
        nextRead = readCount
        nextIsPaid = false
        count(.expired, UInt64(discarded))
        return discarded
    }

    /// Reads the next frames, `limit` at most; each stays where it is until it is delivered.
    private mutating func readFrames(_ limit: Int) {
        nextRead = 0
        readCount = 0
        isDry = false
        let ahead = incoming == nil ? 0 : train.ahead(limit: min(limit, FrameReads.capacity))
        if ahead > 0 { readTogether(ahead) } else { readEach(min(limit, FrameMemory.reads)) }
    }

    /// Reads frames one behind the other.
    private mutating func readEach(_ wanted: Int) {
        var offset = FrameMemory.firstRead(rules.headroom)
        while readCount < wanted, offset <= FrameMemory.read {
            guard let bytes = readFrame(offset) else { return endTrain() }
            frames[readCount] = ReadFrame(
                offset: UInt32(truncatingIfNeeded: offset), bytes: UInt32(truncatingIfNeeded: bytes))
            readCount += 1
            train.add(1, longest: bytes)
            offset = FrameMemory.nextRead(offset, bytes, rules.headroom)
        }
    }

    /// Reads as many frames as are probably there.
    private mutating func readTogether(_ wanted: Int) {
        // There are as many places as frames that `FrameReads` reads, each with room for the longest, and more in `frames`.
        // Offsets are those of frames, which follow their headers.
        unsafe incoming?.read(
            wanted, to: memory.receptions - VirtioHeader.size, places: memory.places.pointer, room: FrameMemory.room,
            into: frames.pointer)
        readCount = incoming?.count ?? 0
        train.add(readCount, longest: incoming?.longest ?? 0)
        if let failure = incoming?.failure, failure != 0 { readFailed(failure) }
        if readCount < wanted { endTrain() }
    }

    private mutating func endTrain() {
        train.end()
        isDry = true
    }

    /// Anything but "nothing there" would be so again at once.
    private mutating func readFailed(_ code: Int32) {
        condition = .failed(Fault("read from the TAP device", errno: code))
    }

    /// Reads a frame to `offset`, its header to the bytes in front of that; bytes of both.
    private mutating func readFrame(_ offset: Int) -> Int? {
        // Up to `FrameMemory.read`, behind which there is room for the longest frame.
        let bytes = unsafe linux_frame_read(
            tap, memory.receptions + offset - VirtioHeader.size, Int(FrameMemory.room))
        if bytes < 0, bytes != -Int(EAGAIN) { readFailed(Int32(-bytes)) }
        return bytes > 0 ? bytes : nil
    }

    /// Bytes of a frame without its header.
    private func size(_ index: Int) -> Int { Int(frames[index].bytes) &- VirtioHeader.size }

    /// Puts a frame that was read into the slots that the guest has put up; false if those are too few.
    private mutating func deliver(_ index: Int, _ room: inout Int) -> Bool {
        let size = size(index)
        guard size > 0 else { return true }
        // Where it was read to.
        let frame = unsafe memory.receptions + Int(frames[index].offset)
        guard unsafe size < 14 || rules.admits(frame) else {
            count(.multicastFiltered)
            return true
        }
        let header = unsafe VirtioHeader(frame - VirtioHeader.size)
        var extras = unsafe FrameExtras(headroom: rules.headroom, hash: rules.hash(frame, size))
        switch unsafe Translation.toGuest(frame, count: size, header, offloads) {
        case .dropped:
            count(.notCuttable)
            return true
        case .whole(let flags, let segmentation):
            extras.segmentation = segmentation
            guard hasSlots(size, extras) else {
                // Its sum is complete: whoever looks again must not complete it once more.
                if flags == .dataValidated { unsafe VirtioHeader.validated.store(frame - VirtioHeader.size) }
                return isUndeliverable(size)
            }
            unsafe put(frame, size, flags, extras)
            return true
        case .cut(let payload, let headers):
            return unsafe deliverCut(frame, headers, payload, extras, &room)
        }
    }

    /// Slots of data: the headroom takes its part of the first page.
    private func dataSlots(_ size: Int) -> Int { (rules.headroom + size + 4095) / 4096 }

    private mutating func hasSlots(_ size: Int, _ extras: FrameExtras) -> Bool {
        let data = dataSlots(size)
        let needed = data + extras.count
        guard data == 1 || scatters, let waiting = receive.waiting() else { return false }
        return Int(waiting) >= needed && deliveryCount + needed <= deliveries.count
    }

    /// A frame that does not fit however long one waits is dropped, others are held.
    private mutating func isUndeliverable(_ size: Int) -> Bool {
        guard dataSlots(size) > 1, !scatters else { return false }
        count(.tooLarge)
        return true
    }

    private mutating func deliverCut(
        _ frame: UnsafeMutableRawPointer, _ headers: FrameHeaders, _ payload: Int, _ extras: FrameExtras,
        _ room: inout Int
    ) -> Bool {
        guard var segmenter = unsafe Segmenter(frame, headers, payload: payload) else {
            count(.notCuttable)
            return true
        }
        let pieces = (headers.end + payload - 1) / payload
        guard let waiting = receive.waiting() else { return false }
        // As many slots as the pieces may need, or nearly all that a ring can have: else it would wait for ever.
        let needed = pieces * (dataSlots(segmenter.largest) + extras.count)
        guard Int(waiting) >= min(needed, Int(NetRing.slots) - 32) else { return false }
        while room + segmenter.largest <= FrameMemory.capacity, let size = unsafe segmenter.next(memory.frame(room)) {
            guard hasSlots(size, extras) else {
                count(.tooLarge)
                break
            }
            unsafe put(memory.frame(room), size, .dataValidated, extras)
            room = FrameMemory.start(room + size, segmenter.largest)
        }
        return true
    }

    /// Writes down the slots of a frame, from where it is copied.
    private mutating func put(
        _ frame: UnsafeMutableRawPointer, _ size: Int, _ flags: ReceiveFlags, _ extras: FrameExtras
    ) {
        let length = min(4096 &- extras.headroom, size)
        var firstFlags = flags
        if extras.count > 0 { firstFlags.insert(.extraInfo) }
        if length < size { firstFlags.insert(.moreData) }
        unsafe putSlot(frame, extras.headroom, length, firstFlags, isFirst: true)
        if extras.count > 0 { put(extras) }
        if length < size { unsafe putRest(frame, length, size) }
    }

    /// Writes down the slots of a frame behind the first, each full but the last. The ring's and the tables' places are kept in
    /// variables of its own: a packet of 64 KiB has sixteen such slots.
    private mutating func putRest(_ frame: UnsafeMutableRawPointer, _ first: Int, _ size: Int) {
        var (done, index) = (first, 0)
        let (start, segment, delivery) = (receive.consumed, segmentCount, deliveryCount)
        while done < size {
            let length = min(FrameMemory.page, size &- done)
            let request = request(start &+ UInt32(truncatingIfNeeded: index))
            let flags: ReceiveFlags = done &+ length < size ? .moreData : []
            // There are slots, by `hasSlots`, and elements of both tables for each.
            unsafe segments.element(segment &+ index).pointee = .toGuest(
                domain, GrantReference(request.gref), offset: 0, length: UInt16(truncatingIfNeeded: length),
                from: frame + done)
            unsafe deliveries.element(delivery &+ index).pointee = ReceiveSlot(
                request.id, flags, offset: 0, length, segment: segment &+ index)
            done &+= length
            index &+= 1
        }
        receive.consume(UInt32(truncatingIfNeeded: index))
        segmentCount = segment &+ index
        deliveryCount = delivery &+ index
    }

    @inline(__always) private mutating func putSlot(
        _ start: UnsafeMutableRawPointer, _ offset: Int, _ length: Int, _ flags: ReceiveFlags, isFirst: Bool
    ) {
        let request = takeRequest()
        // There is a slot, by `hasSlots`, and an element of both tables for each.
        unsafe segments.element(segmentCount).pointee = .toGuest(
            domain, GrantReference(request.gref), offset: UInt16(truncatingIfNeeded: offset),
            length: UInt16(truncatingIfNeeded: length), from: start)
        unsafe deliveries.element(deliveryCount).pointee = ReceiveSlot(
            request.id, flags, offset: offset, length, segment: segmentCount, isFirst: isFirst)
        deliveryCount &+= 1
        segmentCount &+= 1
    }

    /// In the order of xen-netback.
    private mutating func put(_ extras: FrameExtras) {
        var left = extras.count
        if let segmentation = extras.segmentation { putExtra(.segmentation(segmentation), &left) }
        if extras.headroom > 0 { putExtra(.headroom(UInt16(truncatingIfNeeded: extras.headroom)), &left) }
        if let hash = extras.hash { putExtra(.hash(hash), &left) }
    }

    /// Extra info takes a slot of its own; the buffer that it names is not used.
    private mutating func putExtra(_ extra: ReceiveExtra, _ left: inout Int) {
        left -= 1
        _ = takeRequest()
        deliveries[deliveryCount] = ReceiveSlot(extra: extra.word(isLast: left == 0))
        deliveryCount += 1
    }

    private mutating func takeRequest() -> netif_rx_request_wire {
        let request = request(receive.consumed)
        receive.consume(1)
        return request
    }

    /// A copy, made once, of the request at an index; what it is answered with overwrites it on the ring.
    @inline(__always) private func request(_ index: UInt32) -> netif_rx_request_wire {
        // One load of a slot's eight bytes, which are aligned.
        let word = unsafe xen_load_relaxed64(receive.slot(index).assumingMemoryBound(to: UInt64.self))
        // The table has as many elements as the ring has slots.
        unsafe buffers.element(Int((index &- receive.produced) & (NetRing.slots &- 1))).pointee = word
        return netif_rx_request_wire(
            id: UInt16(truncatingIfNeeded: word), pad: 0, gref: UInt32(truncatingIfNeeded: word >> 32))
    }

    /// One response per slot, in the slots of their requests; shown at once, so that a packet is never seen in part.
    private mutating func respond() {
        var (packets, bytes, refused): (UInt64, UInt64, UInt64) = (0, 0, 0)
        let start = receive.produced
        receiveRecord.note(start, UInt32(truncatingIfNeeded: deliveryCount))
        for index in 0..<deliveryCount {
            let delivery = unsafe deliveries.element(index).pointee  // below `deliveryCount`
            let isCopied = delivery.segment == ReceiveSlot.noSegment || isCopied(Int(delivery.segment))
            // Eight bytes of a slot of eight.
            unsafe receive.slot(start &+ UInt32(truncatingIfNeeded: index))
                .storeBytes(of: isCopied ? delivery.word : delivery.failed, as: UInt64.self)
            if !isCopied { refused &+= 1 }
            guard isCopied, delivery.segment != ReceiveSlot.noSegment else { continue }
            if delivery.isFirst { packets &+= 1 }
            bytes &+= delivery.size
        }
        receive.produce(UInt32(truncatingIfNeeded: deliveryCount))
        count(.receivedPackets, packets)
        count(.receivedBytes, bytes)
        if refused > 0 { count(.receiveGrantRefused, refused) }
        if receive.publish() { owesReceiveEvent = true }
    }

    @inline(__always) private func isCopied(_ segment: Int) -> Bool {
        // Of this turn's.
        unsafe segments.element(segment).pointee.status == Int16(XEN_GNTST_okay)
    }

    private mutating func announce() {
        guard owesReceiveEvent else { return }
        owesReceiveEvent = false
        receiveEvents.notify()
        count(.eventsSent)
    }
}
