import BlockBackend
import Descriptors
import Loopback
import ScenarioWorld
import Uring
import XenWire

/// One device: the volume, what its queues have in common, and what it may hold.
final class Disk {
    let volume: ModelVolume
    let shared: DeviceShared
    var oracle: SectorOracle
    let sectors: Int
    let discards: ModelDiscards
    let discardRules: DiscardRules

    init(_ scenario: Scenario, recovers: Bool = false) throws(Fault) {
        let sectors = scenario.sectors
        self.sectors = sectors
        discardRules = scenario.discardRules
        volume = ModelVolume(size: sectors * 512, block: scenario.volumeBlock)
        volume.faults.short = scenario.short
        volume.faults.failed = scenario.failed
        volume.faults.transient = scenario.transient
        discards = ModelDiscards(volume, capacity: scenario.discardCapacity, rules: scenario.discardRules)
        shared = try DeviceShared(
            capacity: UInt64(sectors), unit: UInt32(scenario.volumeBlock), queues: scenario.queues, recovers: recovers,
            discards: scenario.limits.offersDiscard ? discards : nil)
        oracle = SectorOracle(sectors: sectors)
        unsafe volume.fill { bytes in
            guard let base = bytes.baseAddress else { return }
            for sector in 0..<sectors {
                let word = SectorOracle.Content.word(write: SectorOracle.Content.initial, sector: sector)
                unsafe Pages.fill(base + sector * 512, word)
            }
        }
    }

    /// The whole units within a range, sector by sector: all that a discard may touch.
    func discardable(_ range: Range<Int>) -> Range<Int> {
        let unit = Int(discardRules.granularity)
        let alignment = Int(discardRules.alignment)
        let whole = range.filter { sector in
            guard sector >= alignment else { return false }
            let start = sector - (sector - alignment) % unit
            return start >= range.lowerBound && start + unit <= range.upperBound
        }
        guard let first = whole.first, let last = whole.last else { return range.lowerBound..<range.lowerBound }
        return first..<last + 1
    }

    /// The first sector whose durable content a read with these times could not have returned.
    func firstSectorNotDurable(issued: Int, ended: Int) -> Int? {
        (0..<sectors).first { sector in
            !oracle.allows(volume.words(sector: sector).durable, sector: sector, issued: issued, ended: ended)
        }
    }
}
