internal import CXen
internal import NetFrames
internal import SharedRing
internal import XenWire

// After a process that has ended for a fault of its own. Whatever led to it is still on the transmit ring, if it came from
// there: the first time that is taken for chance, then packets are sent one by one, so that the journal knows which one it was,
// and that one is not tried again. Frames from the host went with the process that had read them.
extension NetQueueCore {
    @inline(never) mutating func cautiousTurn() -> Bool {
        guard let journal else { return ordinaryTurn() }
        if journal.mustGoAlone, isBeforeEnd {
            let worked = transmitAlone(journal)
            return condition == .running && !worked ? receivePackets() : worked
        }
        let worked = ordinaryTurn()
        guard worked, condition == .running else { return worked }
        journal.forgetFaults()
        isCautious = false
        return true
    }

    /// Of what the earlier process may have seen something is left.
    private var isBeforeEnd: Bool {
        mutating get {
            let end = aloneUntil ?? transmit.requestProducer()
            aloneUntil = end
            return Int32(bitPattern: end &- transmit.consumed) > 0
        }
    }

    /// The first packet on the ring and no other; true if it is answered.
    private mutating func transmitAlone(_ journal: Journal) -> Bool {
        guard let waiting = transmit.waiting() else {
            violated(.ringOverrun)
            return false
        }
        guard waiting > 0, transmitRest == 0 else { return false }
        copyRequests(waiting)
        let slot = UInt16(truncatingIfNeeded: transmit.consumed & (NetRing.slots &- 1))
        guard journal.condemned != slot else {
            condemn(Int(waiting))
            journal.absolve()
            return true
        }
        journal.goAlone(slot)
        let hasSent = sendFirst(Int(waiting))
        journal.goAlone(nil)
        return hasSent
    }

    private mutating func sendFirst(_ count: Int) -> Bool {
        var position = 0
        batchLimit = 1
        let packets = judge(count, &position)
        batchLimit = FrameMemory.writes
        guard packets > 0 else { return false }
        if segmentCount > 0 { copySegments(.fromGuest) }
        send(packets)
        answer(0)
        publishTransmit()
        return true
    }

    /// Answers the first packet with an error. `judge` may be what cannot stand it, so nothing is looked at but where it ends.
    private mutating func condemn(_ count: Int) {
        var packet = OutgoingPacket()
        let extras = extraSlots(count)
        var slots = 1 + extras
        var flags = TransmitFlags(rawValue: requests[0].flags)
        while flags.contains(.moreData), slots < count {
            flags = TransmitFlags(rawValue: requests[slots].flags)
            slots += 1
        }
        packet.slots = UInt16(truncatingIfNeeded: slots)
        packet.extras = UInt16(truncatingIfNeeded: extras)
        packet.status = NetStatus.error.rawValue
        packets[0] = packet
        transmit.consume(UInt32(truncatingIfNeeded: slots))
        answer(0)
        publishTransmit()
        self.count(.condemned)
    }

    /// Extra info behind the first request (netif_extra_info: its kind, then its flags, a byte each).
    private mutating func extraSlots(_ count: Int) -> Int {
        guard TransmitFlags(rawValue: requests[0].flags).contains(.extraInfo) else { return 0 }
        var extras = 0
        repeat { extras += 1 } while extras < count - 1 && requests[extras].gref >> 8 & 1 != 0
        return min(extras, count - 1)
    }
}
