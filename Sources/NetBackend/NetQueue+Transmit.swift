internal import CLinux
internal import CXen
internal import Glibc
internal import NetFrames
internal import SharedRing
internal import Uring
internal import XenWire

// From the guest to the TAP device.
extension NetQueueCore {
    /// Sends what is on the ring, as much as the memory holds; true if there was anything.
    mutating func transmitPackets() -> Bool {
        guard let waiting = transmit.waiting() else {
            violated(.ringOverrun)
            return false
        }
        guard waiting > 0, transmitRest == 0 else { return false }
        let count = Int(waiting)
        copyRequests(waiting)
        var position = 0
        while position < count {
            let packets = judge(count, &position)
            guard packets > 0 else { break }
            if segmentCount > 0 { copySegments(.fromGuest) }
            send(packets)
            for index in 0..<packets { answer(index) }
        }
        publishTransmit()
        return position > 0
    }

    /// Every request is copied out once, and nothing but the copy is looked at. From here on the copies are what counts, for
    /// the next process as well, until all that is answered of them is published.
    mutating func copyRequests(_ count: UInt32) {
        for index in 0..<Int(count) {
            // `waiting` is at most the ring's size, which is the table's.
            let slot = unsafe transmit.slot(transmit.consumed &+ UInt32(truncatingIfNeeded: index))
            unsafe xen_copy_out(requests.element(index), slot, NetRing.transmitSlot)
        }
        transmitRecord.note(transmit.produced, count)
    }

    /// Judges packet after packet, from `position` on, and prepares their copies; how many are taken from the ring.
    mutating func judge(_ count: Int, _ position: inout Int) -> Int {
        segmentCount = 0
        let start = position
        var taken = 0
        var used = 0
        while position < count, taken < batchLimit, condition == .running {
            let packet: TransmitPacket
            do throws(NetViolation) {
                // `position` is below `count`.
                packet = unsafe try TransmitPacket.judge(requests.pointer + position, count: count - position)
            } catch {
                violated(error)
                break
            }
            let size = packet.fault == nil && packet.multicast == nil ? Int(packet.size) : 0
            let offset = place(packet, position, size, used)
            let limit = size > FrameMemory.page ? FrameMemory.written : FrameMemory.capacity
            guard offset + size <= limit, segmentCount + packet.slots <= segments.count, mayTransmit(size) else {
                break
            }
            packets[taken] = prepared(packet, at: position, offset)
            if size > 0 { used = offset + size }
            position += packet.slots
            taken += 1
        }
        transmit.consume(UInt32(truncatingIfNeeded: position - start))
        return taken
    }

    /// Where a packet's data is copied to.
    private mutating func place(_ packet: TransmitPacket, _ position: Int, _ size: Int, _ used: Int) -> Int {
        let second = 1 + packet.extras
        guard size > FrameMemory.page, second < packet.slots else { return FrameMemory.start(used, size) }
        return FrameMemory.start(used, Int(packet.firstSize), at: Int(requests[position + second].offset))
    }

    /// What the rate limit keeps back stays on the ring.
    private mutating func mayTransmit(_ size: Int) -> Bool {
        let delay = size > 0 ? delay(size) : 0
        transmitRest = delay > 0 ? now &+ delay : 0
        return delay == 0
    }

    private mutating func prepared(_ packet: TransmitPacket, at position: Int, _ offset: Int) -> OutgoingPacket {
        var outgoing = OutgoingPacket()
        outgoing.first = UInt16(truncatingIfNeeded: position)
        outgoing.slots = UInt16(truncatingIfNeeded: packet.slots)
        outgoing.extras = UInt16(truncatingIfNeeded: packet.extras)
        outgoing.flags = packet.flags.rawValue
        if let fault = packet.fault {
            outgoing.status = NetStatus.error.rawValue
            count(NetCounter(fault))
        } else if let change = packet.multicast {
            outgoing.status = changeGroups(change).rawValue
        } else {
            outgoing.offset = UInt32(truncatingIfNeeded: offset)
            outgoing.size = packet.size
            outgoing.segmentSize = packet.segmentation?.size ?? 0
            outgoing.segmentKind = packet.segmentation?.kind.rawValue ?? 0
            outgoing.firstSegment = UInt16(truncatingIfNeeded: segmentCount)
            addSegments(packet, position, offset)
            outgoing.segments = UInt16(truncatingIfNeeded: segmentCount) &- outgoing.firstSegment
        }
        return outgoing
    }

    /// The list is the interface's: all queues follow it.
    @inline(never) private mutating func changeGroups(_ change: ExtraInfo) -> NetStatus {
        guard policy.change({ $0.change(change) }) else {
            count(.multicastRefused)
            return .error
        }
        count(.multicastChanges)
        return .okay
    }

    /// The first slot's own bytes, then those of the slots behind the extra info.
    private mutating func addSegments(_ packet: TransmitPacket, _ position: Int, _ offset: Int) {
        let first = requests[position]
        addSegment(first.gref, first.offset, UInt16(truncatingIfNeeded: packet.firstSize), offset)
        var end = offset + Int(packet.firstSize)
        var slot = position + 1 + packet.extras
        while slot < position + packet.slots {
            let request = requests[slot]
            addSegment(request.gref, request.offset, request.size, end)
            end += Int(request.size)
            slot += 1
        }
    }

    /// Nothing is copied for an empty slot, which is legal (XSA-448).
    private mutating func addSegment(_ reference: UInt32, _ offset: UInt16, _ length: UInt16, _ position: Int) {
        guard length > 0 else { return }
        // Within the memory, by `judgeAll`'s account; one per slot, for which there is room.
        unsafe segments.element(segmentCount).pointee = .fromGuest(
            domain, GrantReference(reference), offset: offset, length: length, to: memory.frame(position))
        segmentCount += 1
    }

    mutating func copySegments(_ direction: CopyDirection) {
        // `segmentCount` segments, whose local sides lie in `memory`.
        _ = unsafe grants.copy(segments.pointer, count: segmentCount, direction)
        count(.grantCopies)
        count(.grantSegments, UInt64(segmentCount))
    }

    /// Hands packets to the TAP device, all together.
    mutating func send(_ count: Int) {
        outgoing.clear()
        for index in 0..<count { prepareWrite(index) }
        outgoing.run()
        account(count)
    }

    private mutating func prepareWrite(_ index: Int) {
        let packet = packets[index]
        guard packet.size > 0 else { return }
        guard isCopied(packet) else {
            packets[index].status = NetStatus.error.rawValue
            return count(.grantRefused)
        }
        let segmentation = SegmentationKind(rawValue: packet.segmentKind).map {
            Segmentation($0, size: packet.segmentSize)
        }
        // The frame lies in `memory`, with the headroom in front.
        let frame = unsafe memory.frame(Int(packet.offset))
        // As if the network had lost it: the guest is told nothing.
        if let reason = unsafe filter?.judge(frame, count: Int(packet.size)) { return count(reason) }
        do throws(FrameFault) {
            let header = unsafe try Translation.toHost(
                frame, count: Int(packet.size), TransmitFlags(rawValue: packet.flags), segmentation)
            let start = unsafe frame - VirtioHeader.size
            unsafe header.store(start)
            unsafe outgoing.add(start, VirtioHeader.size + Int(packet.size))
            packets[index].isWritten = true
        } catch {
            packets[index].status = NetStatus.error.rawValue
            count(.frameRefused)
        }
    }

    private mutating func isCopied(_ packet: OutgoingPacket) -> Bool {
        for index in Int(packet.firstSegment)..<Int(packet.firstSegment) + Int(packet.segments)
        where segments[index].status != Int16(XEN_GNTST_okay) { return false }
        return true
    }

    /// A frame that the host does not take (the interface is down, no memory) is lost, as on any network.
    private mutating func account(_ count: Int) {
        var frames = 0
        var (sent, bytes): (UInt64, UInt64) = (0, 0)
        for index in 0..<count where packets[index].isWritten {
            if outgoing.result(frames) > 0 {
                sent += 1
                bytes += UInt64(packets[index].size)
            }
            frames += 1
        }
        self.count(.transmittedPackets, sent)
        self.count(.transmittedBytes, bytes)
        if sent < frames { self.count(.hostRefused, UInt64(frames) - sent) }
    }

    /// One response for each slot, in their order.
    mutating func answer(_ index: Int) {
        let packet = packets[index]
        for slot in 0..<Int(packet.slots) {
            let isExtra = slot > 0 && slot <= Int(packet.extras)
            respond(requests[Int(packet.first) + slot].id, isExtra ? NetStatus.null.rawValue : packet.status)
        }
    }

    private mutating func respond(_ id: UInt16, _ status: Int16) {
        // Four bytes at the start of a slot of twelve.
        let slot = unsafe transmit.responseSlot()
        unsafe slot.storeBytes(of: UInt32(id) | UInt32(UInt16(bitPattern: status)) << 16, as: UInt32.self)
    }

    mutating func publishTransmit() {
        guard transmit.unpublished > 0, transmit.publish() else { return }
        transmitEvents.notify()
        count(.eventsSent)
    }
}

extension NetCounter {
    init(_ fault: TransmitFault) {
        switch fault {
        case .tooManySlots: self = .tooManySlots
        case .longerThanSaid: self = .longerThanSaid
        case .tooShort: self = .tooShort
        }
    }
}
