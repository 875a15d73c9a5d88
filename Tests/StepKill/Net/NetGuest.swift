import Loopback

/// A netfront with one queue pair, and the host behind the TAP device.
struct NetGuest: Guest {
    private let region: NetRegion
    private var transmit: TransmitEnd
    private var receive: ReceiveEnd
    private let habits: Habits
    var random: SeededRandom

    struct Habits {
        var appetite: Int
        /// Thousandths of what is on its way that go from the guest to the host.
        var transmits: Int
    }

    init(_ region: NetRegion, _ random: SeededRandom, _ habits: Habits) {
        self.region = region
        self.random = random
        self.habits = habits
        transmit = TransmitEnd(region)
        receive = ReceiveEnd(region)
    }

    var appetite: Int { habits.appetite }
    var answered: Int { transmit.answered + receive.answered }

    mutating func ask(_ count: Int) {
        // Too few buffers, now and then.
        receive.putUp(random.below(2 * count + 2))
        for _ in 0..<min(count, appetite) {
            if random.chance(perThousand: habits.transmits) {
                transmit.put(&random)
            } else {
                receive.offer(&random)
            }
        }
        transmit.publish()
        receive.publish()
    }

    mutating func takeAnswers() throws {
        try transmit.hear()
        if region.takeEvent(NetSide.transmit.rawValue) { try transmit.takeAnswers() }
        if region.takeEvent(NetSide.receive.rawValue) { try receive.takeAnswers() }
    }

    mutating func noteDeath() throws {
        try transmit.noteDeath()
        receive.noteDeath(dropping: random.chance(perThousand: 300))
    }

    mutating func settle() -> Bool {
        guard !receive.isIdle, receive.hasBuffers else { return false }
        receive.putUp(NetRegion.buffers)
        receive.publish()
        return true
    }

    mutating func finish() throws {
        try transmit.finish()
        try receive.finish()
    }
}
