import CXen
import Glibc
import XenWire

extension Mutant {
    /// Changes what a killed process has left of one of a network queue's rings.
    func tamper(_ ring: NetSharedRing, _ side: NetSide) {
        let note = ring.note
        let isPartly = ring.isNoted && ring.written > 0 && ring.written < Int(note.count)
        switch self {
        case .lateNote where isPartly: ring.note.first = note.first &- 1
        case .sharedCopies where ring.isNoted:
            for number in 0..<note.count {
                // A slot's bytes.
                unsafe memcpy(ring.copy(number), ring.slot(note.first &+ number), ring.slotSize)
            }
        case .staleRestore where !ring.isNoted: Self.putBack(ring, note.count)
        case .countlessRestore where ring.isNoted: Self.putBack(ring, NetRing.slots)
        case .earlyPublish where isPartly: ring.published &+= note.count
        case .unsentAnswers where side == .transmit && ring.isNoted && ring.written == 0: Self.answer(ring)
        default: break
        }
    }

    private static func putBack(_ ring: NetSharedRing, _ count: UInt32) {
        for number in 0..<count {
            // A slot's bytes.
            unsafe memcpy(ring.slot(ring.note.first &+ number), ring.copy(number), ring.slotSize)
        }
    }

    /// Answers a noted batch as if all of it had been sent.
    private static func answer(_ ring: NetSharedRing) {
        var isExtra = false
        for number in 0..<ring.note.count {
            // A request of twelve bytes, a response of four.
            let request = unsafe ring.copy(number).load(as: netif_tx_request_wire.self)
            let status: NetStatus = isExtra ? .null : .okay
            let response = netif_tx_response_wire(id: request.id, status: status.rawValue)
            unsafe ring.slot(ring.note.first &+ number).storeBytes(of: response, as: netif_tx_response_wire.self)
            isExtra = !isExtra && TransmitFlags(rawValue: request.flags).contains(.extraInfo)
        }
        ring.published &+= ring.note.count
    }
}
