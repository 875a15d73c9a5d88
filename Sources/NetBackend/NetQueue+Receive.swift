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
        if nextRead >= readCount { readFrames() }
        rules.follow(policy)
        segmentCount = 0
        deliveryCount = 0
        let first = nextRead
        var room = 0
        while nextRead < readCount, room + FrameMemory.largest <= FrameMemory.capacity, mayReceive(nextRead),
            deliver(nextRead, &room)
        {
            nextRead += 1
            nextIsPaid = false
        }
        if segmentCount > 0 { copySegments(.toGuest) }
        if deliveryCount > 0 { respond() }
        return nextRead > first
    }

    /// A frame is charged once, however often it is tried.
    private mutating func mayReceive(_ index: Int) -> Bool {
        guard !nextIsPaid else { return true }
        let delay = delay(Int(frames[index].size))
        nextIsPaid = delay == 0
        receiveRest = nextIsPaid ? 0 : now &+ delay
        return nextIsPaid
    }

    mutating func discardBacklog() -> Int {
        var discarded = 0
        // As many as a TAP device may hold (its txqueuelen); more that come meanwhile wait for the next time.
        repeat {
            discarded += readCount - nextRead
            readFrames()
        } while readCount > 0 && discarded < 1024
        nextRead = readCount
        nextIsPaid = false
        count(.expired, UInt64(discarded))
        return discarded
    }

    /// Reads the next frames; each stays where it is until it is delivered.
    private mutating func readFrames() {
        nextRead = 0
        readCount = 0
        let ahead = train.ahead
        if ahead > 0, incoming != nil { readTogether(ahead) } else { readEach() }
    }

    /// Reads frames one behind the other.
    private mutating func readEach() {
        var room = 0
        while readCount < FrameMemory.reads, room <= FrameMemory.read {
            guard let size = readFrame(room) else { return train.end() }
            addRead(room, size)
            room += FrameMemory.room(size)
        }
    }

    /// Reads as many frames as are probably there.
    private mutating func readTogether(_ wanted: Int) {
        // There are as many places as frames that `FrameReads` reads, each with room for the longest.
        unsafe incoming?.read(
            wanted, to: memory.frame(readTo: FrameMemory.place(0)) - VirtioHeader.size, stride: FrameMemory.stride,
            room: UInt32(FrameMemory.largest - FrameMemory.headroom))
        let (count, failure) = (incoming?.count ?? 0, incoming?.failure ?? 0)
        for index in 0..<count {
            guard let frame = incoming?.frame(index), frame.bytes > VirtioHeader.size else { continue }
            addRead(FrameMemory.place(frame.place), frame.bytes - VirtioHeader.size)
        }
        if failure != 0 { readFailed(failure) }
        if count < min(wanted, FrameReads.capacity) { train.end() }
    }

    private mutating func addRead(_ offset: Int, _ size: Int) {
        frames[readCount] = ReadFrame(
            offset: UInt32(truncatingIfNeeded: offset), size: UInt32(truncatingIfNeeded: size))
        readCount += 1
        train.add(bytes: size)
    }

    /// Anything but "nothing there" would be so again at once.
    private mutating func readFailed(_ code: Int32) {
        condition = .failed(Fault("read from the TAP device", errno: code))
    }

    /// Reads a frame to `offset`; its length without header.
    private mutating func readFrame(_ offset: Int) -> Int? {
        // Behind `FrameMemory.read` there is room for the longest frame.
        let start = unsafe memory.frame(readTo: offset) - VirtioHeader.size
        let bytes = unsafe linux_frame_read(tap, start, FrameMemory.largest - FrameMemory.headroom)
        if bytes < 0, bytes != -Int(EAGAIN) { readFailed(Int32(-bytes)) }
        return bytes > VirtioHeader.size ? bytes - VirtioHeader.size : nil
    }

    /// Puts a frame that was read into the slots that the guest has put up; false if those are too few.
    private mutating func deliver(_ index: Int, _ room: inout Int) -> Bool {
        let size = Int(frames[index].size)
        let frame = unsafe memory.frame(readTo: Int(frames[index].offset))
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

    private func hasSlots(_ size: Int, _ extras: FrameExtras) -> Bool {
        let data = dataSlots(size)
        let needed = data + extras.count
        guard data == 1 || scatters, let waiting = receive.waiting() else { return false }
        return Int(waiting) >= needed && deliveryCount + needed <= deliveries.count
    }

    /// A frame that does not fit however long one waits is dropped, others are held.
    private func isUndeliverable(_ size: Int) -> Bool {
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
            room = (room + size + 63) & ~63
        }
        return true
    }

    /// Writes down the slots of a frame, from where it is copied.
    private mutating func put(
        _ frame: UnsafeMutableRawPointer, _ size: Int, _ flags: ReceiveFlags, _ extras: FrameExtras
    ) {
        var done = 0
        while done < size {
            let offset = done == 0 ? extras.headroom : 0
            let length = min(4096 - offset, size - done)
            var slotFlags = flags
            if done + length < size { slotFlags.insert(.moreData) }
            if done == 0, extras.count > 0 { slotFlags.insert(.extraInfo) }
            unsafe putSlot(
                frame + done, offset, length, done == 0 ? slotFlags : slotFlags.intersection(.moreData),
                isFirst: done == 0)
            if done == 0 { put(extras) }
            done += length
        }
    }

    private mutating func putSlot(
        _ start: UnsafeMutableRawPointer, _ offset: Int, _ length: Int, _ flags: ReceiveFlags, isFirst: Bool
    ) {
        let request = takeRequest()
        // There is a slot, by `hasSlots`, and a segment for each.
        unsafe segments.element(segmentCount).pointee = .toGuest(
            domain, GrantReference(request.gref), offset: UInt16(truncatingIfNeeded: offset),
            length: UInt16(truncatingIfNeeded: length), from: start)
        var slot = ReceiveSlot()
        slot.id = request.id
        slot.flags = flags.rawValue
        slot.size = Int16(truncatingIfNeeded: length)
        slot.offset = UInt16(truncatingIfNeeded: offset)
        slot.segment = UInt16(truncatingIfNeeded: segmentCount)
        slot.isFirst = isFirst
        deliveries[deliveryCount] = slot
        deliveryCount += 1
        segmentCount += 1
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
        var slot = ReceiveSlot()
        slot.segment = ReceiveSlot.noSegment
        slot.extra = extra.word(isLast: left == 0)
        deliveries[deliveryCount] = slot
        deliveryCount += 1
    }

    private mutating func takeRequest() -> netif_rx_request_wire {
        var request = netif_rx_request_wire(id: 0, pad: 0, gref: 0)
        unsafe xen_copy_out(&request, receive.takeSlot(), NetRing.receiveSlot)
        return request
    }

    /// One response per slot, in the slots of their requests; shown at once, so that a packet is never seen in part.
    private mutating func respond() {
        var (packets, bytes): (UInt64, UInt64) = (0, 0)
        for index in 0..<deliveryCount { respond(deliveries[index], &packets, &bytes) }
        count(.receivedPackets, packets)
        count(.receivedBytes, bytes)
        guard receive.publish() else { return }
        receiveEvents.notify()
        count(.eventsSent)
    }

    private mutating func respond(_ delivery: ReceiveSlot, _ packets: inout UInt64, _ bytes: inout UInt64) {
        // Eight bytes of a slot of eight.
        let slot = unsafe receive.responseSlot()
        guard delivery.segment != ReceiveSlot.noSegment else {
            unsafe slot.storeBytes(of: delivery.extra, as: UInt64.self)
            return
        }
        let isCopied = segments[Int(delivery.segment)].status == Int16(XEN_GNTST_okay)
        if !isCopied { count(.receiveGrantRefused) }
        let status = isCopied ? delivery.size : NetStatus.error.rawValue
        unsafe slot.storeBytes(
            of: UInt64(delivery.id) | UInt64(delivery.offset) << 16 | UInt64(delivery.flags) << 32
                | UInt64(UInt16(bitPattern: status)) << 48, as: UInt64.self)
        guard isCopied else { return }
        if delivery.isFirst { packets += 1 }
        bytes += UInt64(delivery.size)
    }
}
