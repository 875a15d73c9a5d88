internal import XenWire

// Discards: judged here, executed off the ring's thread.
extension QueueCore {
    func judgeDiscard(_ index: UInt16, _ request: BlockRequest) throws(Violation) {}
    mutating func startDiscard(_ index: UInt16) -> Bool { true }
}
