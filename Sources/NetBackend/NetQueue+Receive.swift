internal import CLinux
internal import CXen
internal import Descriptors
internal import Glibc
internal import NetFrames
internal import SharedRing
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

    /// Reads the next frames, one behind the other; each stays where it is until it is delivered.
    private mutating func readFrames() {
        nextRead = 0
        readCount = 0
        var room = 0
        while readCount < FrameMemory.reads, room <= FrameMemory.read, let size = readFrame(room) {
            frames[readCount] = ReadFrame(
                offset: UInt32(truncatingIfNeeded: room), size: UInt32(truncatingIfNeeded: size))
            readCount += 1
            room += FrameMemory.room(size)
        }
    }

    /// Reads a frame to `offset`; its length without header.
    private mutating func readFrame(_ offset: Int) -> Int? {
        // Behind `FrameMemory.read` there is room for the longest frame.
        let start = unsafe memory.frame(readTo: offset) - VirtioHeader.size
        let bytes = unsafe linux_frame_read(tap, start, FrameMemory.largest - FrameMemory.headroom)
        // Anything but "nothing there" would be so again at once.
        if bytes < 0, bytes != -Int(EAGAIN) {
            condition = .failed(Fault("read from the TAP device", errno: Int32(-bytes)))
        }
        return bytes > VirtioHeader.size ? bytes - VirtioHeader.size : nil
    }

    /// Puts a frame that was read into the slots that the guest has put up; false if those are too few.
    private mutating func deliver(_ index: Int, _ room: inout Int) -> Bool {
        let size = Int(frames[index].size)
        let frame = unsafe memory.frame(readTo: Int(frames[index].offset))
        var header = unsafe VirtioHeader(frame - VirtioHeader.size)
        switch unsafe Translation.toGuest(frame, count: size, header, offloads) {
        case .dropped:
            count(.notCuttable)
            return true
        case .whole(let flags, let segmentation):
            guard hasSlots(size, segmentation != nil ? 1 : 0) else {
                // A sum that was completed now must not be completed once more.
                if !flags.contains(.checksumBlank) { header.flags = flags.isEmpty ? 0 : VirtioHeader.dataValid }
                unsafe header.store(frame - VirtioHeader.size)
                return isUndeliverable(size)
            }
            unsafe put(frame, size, flags, segmentation)
            return true
        case .cut(let payload, let headers):
            return unsafe deliverCut(frame, headers, payload, &room)
        }
    }

    private func hasSlots(_ size: Int, _ extras: UInt32) -> Bool {
        let needed = UInt32(truncatingIfNeeded: (size + 4095) / 4096) + extras
        guard needed == 1 || scatters, let waiting = receive.waiting() else { return false }
        return waiting >= needed && deliveryCount + Int(needed) <= deliveries.count
    }

    /// A frame that does not fit however long one waits is dropped, others are held.
    private func isUndeliverable(_ size: Int) -> Bool {
        guard size > 4096, !scatters else { return false }
        count(.tooLarge)
        return true
    }

    private mutating func deliverCut(
        _ frame: UnsafeMutableRawPointer, _ headers: FrameHeaders, _ payload: Int, _ room: inout Int
    ) -> Bool {
        guard var segmenter = unsafe Segmenter(frame, headers, payload: payload) else {
            count(.notCuttable)
            return true
        }
        let pieces = (headers.end + payload - 1) / payload
        guard let waiting = receive.waiting() else { return false }
        // As many slots as the pieces may need, or nearly all that a ring can have: else it would wait for ever.
        guard Int(waiting) >= min(pieces * ((segmenter.largest + 4095) / 4096), Int(NetRing.slots) - 32) else {
            return false
        }
        while room + segmenter.largest <= FrameMemory.capacity, let size = unsafe segmenter.next(memory.frame(room)) {
            guard hasSlots(size, 0) else {
                count(.tooLarge)
                break
            }
            unsafe put(memory.frame(room), size, .dataValidated, nil)
            room = (room + size + 63) & ~63
        }
        return true
    }

    /// Writes down the slots of a frame, from where it is copied.
    private mutating func put(
        _ frame: UnsafeMutableRawPointer, _ size: Int, _ flags: ReceiveFlags, _ segmentation: Segmentation?
    ) {
        var done = 0
        while done < size {
            let length = min(4096, size - done)
            var slotFlags = flags
            if done + length < size { slotFlags.insert(.moreData) }
            if done == 0, segmentation != nil { slotFlags.insert(.extraInfo) }
            unsafe putSlot(
                frame + done, length, done == 0 ? slotFlags : slotFlags.intersection(.moreData), isFirst: done == 0)
            if done == 0, let segmentation { putExtra(segmentation) }
            done += length
        }
    }

    private mutating func putSlot(
        _ start: UnsafeMutableRawPointer, _ length: Int, _ flags: ReceiveFlags, isFirst: Bool
    ) {
        let request = takeRequest()
        // There is a slot, by `hasSlots`, and a segment for each.
        unsafe segments.element(segmentCount).pointee = .toGuest(
            domain, GrantReference(request.gref), offset: 0, length: UInt16(truncatingIfNeeded: length),
            from: start)
        var slot = ReceiveSlot()
        slot.id = request.id
        slot.flags = flags.rawValue
        slot.size = Int16(truncatingIfNeeded: length)
        slot.segment = UInt16(truncatingIfNeeded: segmentCount)
        slot.isFirst = isFirst
        deliveries[deliveryCount] = slot
        deliveryCount += 1
        segmentCount += 1
    }

    /// Extra info takes a slot of its own; the buffer that it names is not used.
    private mutating func putExtra(_ segmentation: Segmentation) {
        _ = takeRequest()
        var slot = ReceiveSlot()
        slot.segment = ReceiveSlot.noSegment
        slot.segmentSize = segmentation.size
        slot.segmentKind = segmentation.kind.rawValue
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
            let extra = UInt64(1) | UInt64(delivery.segmentSize) << 16 | UInt64(delivery.segmentKind) << 32
            unsafe slot.storeBytes(of: extra, as: UInt64.self)
            return
        }
        let isCopied = segments[Int(delivery.segment)].status == Int16(XEN_GNTST_okay)
        if !isCopied { count(.receiveGrantRefused) }
        let status = isCopied ? delivery.size : NetStatus.error.rawValue
        unsafe slot.storeBytes(
            of: UInt64(delivery.id) | UInt64(delivery.flags) << 32 | UInt64(UInt16(bitPattern: status)) << 48,
            as: UInt64.self)
        guard isCopied else { return }
        if delivery.isFirst { packets += 1 }
        bytes += UInt64(delivery.size)
    }
}
