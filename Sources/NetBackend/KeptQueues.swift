internal import Tap

/// A TAP device's queues, left with whoever starts the daemon: what waits in them for the guest outlives the process, and the
/// host sees a cable that was never out.
struct KeptQueues {
    private let names: [String]
    private let records: any InterfaceRecords

    init(of number: UInt32, _ records: any InterfaceRecords) {
        names = Self.names(of: number)
        self.records = records
    }

    /// `vif0.queue0` and so on, all that there may be.
    private static func names(of number: UInt32) -> [String] {
        (0..<NetOffer.queueRange.upperBound).map { "vif\(number).queue\($0)" }
    }

    /// The number in such a name.
    static func interface(of name: String) -> UInt32? {
        guard name.hasPrefix("vif"), let number = UInt32(name.dropFirst(3).prefix { $0 != "." }),
            names(of: number).contains(name)
        else { return nil }
        return number
    }

    /// What an earlier process has left, as far as it is of one device and in its order.
    ///
    /// A queue that somebody keeps and nobody reads would swallow frames, so those that do not fit are given up.
    func take() -> [TapDevice.OwnedQueue] {
        let left = names.map { take($0) }
        let sound = TapDevice.ofOneDevice(left.prefix { $0 != nil }.compactMap { $0 })
        let surplus = zip(names, left).dropFirst(sound.count).filter { $0.1 != nil }.map(\.0)
        records.forget(descriptors: surplus)
        return sound
    }

    private func take(_ name: String) -> TapDevice.OwnedQueue? {
        guard let descriptor = records.take(descriptor: name) else { return nil }
        return TapDevice.OwnedQueue(descriptor)
    }

    /// Leaves all but the first `count`, which are there already, for the next process.
    func keep(_ queues: [TapDevice.OwnedQueue], after count: Int) {
        for (name, queue) in zip(names, queues).dropFirst(count) { records.keep(queue.number, as: name) }
    }

    /// The device goes. All names: another process may have left more than this one has.
    func forget() { records.forget(descriptors: names) }
}
