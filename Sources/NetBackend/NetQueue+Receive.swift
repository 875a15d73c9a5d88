internal import CLinux
internal import CXen
internal import Descriptors
internal import Glibc
internal import NetFrames
internal import SharedRing
internal import XenWire

// From the TAP device to the guest.
extension NetQueueCore {
    /// Frames of a turn at most.
    private static var batch: Int { 64 }
    /// Segments that one frame can be cut into and still be delivered in one turn.
    private static var extraSlot: UInt32 { 1 }

    /// Delivers what the TAP device has, as far as the guest has room; true if there was anything.
    mutating func receivePackets() -> Bool {
        seenReceive = receive.requestProducer()
        guard receive.waiting() != nil else {
            violated(.ringOverrun)
            return false
        }
        guard !receive.isEmpty, receiveRest == 0 else { return false }
        segmentCount = 0
        deliveryCount = 0
        var room = 0
        var frames = 0
        while frames < Self.batch, room + FrameMemory.largest <= FrameMemory.capacity, let size = nextFrame() {
            guard mayReceive(size), deliver(size, &room) else {
                heldBytes = size
                break
            }
            heldBytes = 0
            heldIsPaid = false
            frames += 1
        }
        if segmentCount > 0 { copySegments(.toGuest) }
        if deliveryCount > 0 { respond() }
        return frames > 0
    }

    /// A frame is charged once, however often it is tried.
    private mutating func mayReceive(_ size: Int) -> Bool {
        guard !heldIsPaid else { return true }
        let delay = delay(size)
        heldIsPaid = delay == 0
        receiveRest = heldIsPaid ? 0 : now &+ delay
        return heldIsPaid
    }

    mutating func discardBacklog() -> Int {
        var frames = 0
        // As many as a TAP device may hold (its txqueuelen), and more that come meanwhile wait for the next time.
        while frames < 1024, nextFrame() != nil {
            heldBytes = 0
            heldIsPaid = false
            frames += 1
        }
        count(.expired, UInt64(frames))
        return frames
    }

    /// A frame in the room for held ones: one that waits there, or the next of the TAP device; its length without header.
    private mutating func nextFrame() -> Int? {
        if heldBytes > 0 { return heldBytes }
        let start = unsafe memory.frame(FrameMemory.held + FrameMemory.headroom) - VirtioHeader.size
        // The room is as long as the longest frame with its header.
        let bytes = unsafe linux_frame_read(tap, start, FrameMemory.largest - FrameMemory.headroom)
        // Anything but "nothing there" would be so again at once.
        if bytes < 0, bytes != -Int(EAGAIN) {
            condition = .failed(Fault("read from the TAP device", errno: Int32(-bytes)))
        }
        return bytes > VirtioHeader.size ? bytes - VirtioHeader.size : nil
    }

    /// Puts a frame into the slots that the guest has put up; false if those are too few.
    private mutating func deliver(_ size: Int, _ room: inout Int) -> Bool {
        let held = unsafe memory.frame(FrameMemory.held + FrameMemory.headroom)
        let header = unsafe VirtioHeader(held - VirtioHeader.size)
        switch unsafe Translation.toGuest(held, count: size, header, offloads) {
        case .dropped:
            count(.notCuttable)
            return true
        case .whole(let flags, let segmentation):
            guard hasSlots(size, segmentation != nil ? 1 : 0) else { return isUndeliverable(size) }
            unsafe put(held, size, flags, segmentation, &room)
            return true
        case .cut(let payload, let headers):
            return unsafe deliverCut(held, headers, payload, &room)
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
        let piece = unsafe memory.frame(FrameMemory.whole)
        while let size = unsafe segmenter.next(piece) {
            guard hasSlots(size, 0), room + size <= FrameMemory.capacity else {
                count(.tooLarge)
                break
            }
            unsafe put(piece, size, .dataValidated, nil, &room)
        }
        return true
    }

    /// Copies a frame into the turn's memory and writes down its slots.
    private mutating func put(
        _ frame: UnsafeMutableRawPointer, _ size: Int, _ flags: ReceiveFlags, _ segmentation: Segmentation?,
        _ room: inout Int
    ) {
        let start = room
        unsafe memory.frame(start).copyMemory(from: frame, byteCount: size)
        room = (start + size + 63) & ~63
        var done = 0
        while done < size {
            let length = min(4096, size - done)
            var slotFlags = flags
            if done + length < size { slotFlags.insert(.moreData) }
            if done == 0, segmentation != nil { slotFlags.insert(.extraInfo) }
            putSlot(start + done, length, done == 0 ? slotFlags : slotFlags.intersection(.moreData), isFirst: done == 0)
            if done == 0, let segmentation { putExtra(segmentation) }
            done += length
        }
    }

    private mutating func putSlot(_ position: Int, _ length: Int, _ flags: ReceiveFlags, isFirst: Bool) {
        let request = takeRequest()
        // There is a slot, by `hasSlots`, and a segment for each.
        unsafe segments.element(segmentCount).pointee = .toGuest(
            domain, GrantReference(request.gref), offset: 0, length: UInt16(truncatingIfNeeded: length),
            from: memory.frame(position))
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
        for index in 0..<deliveryCount { respond(deliveries[index]) }
        guard receive.publish() else { return }
        receiveEvents.notify()
        count(.eventsSent)
    }

    private mutating func respond(_ delivery: ReceiveSlot) {
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
        if delivery.isFirst { count(.receivedPackets) }
        count(.receivedBytes, UInt64(delivery.size))
    }
}
