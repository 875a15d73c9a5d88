import BlockBackend
import Descriptors
import Loopback
import Uring
import XenWire

/// One device: the volume, what its queues have in common, and what it may hold.
final class Disk {
    let volume: ModelVolume
    let shared: DeviceShared
    var oracle: SectorOracle
    let sectors: Int

    init(sectors: Int, block: Int) throws(Fault) {
        self.sectors = sectors
        volume = ModelVolume(size: sectors * 512, block: block)
        shared = try DeviceShared(capacity: UInt64(sectors))
        oracle = SectorOracle(sectors: sectors)
        unsafe volume.fill { bytes in
            guard let base = bytes.baseAddress else { return }
            for sector in 0..<sectors {
                let word = SectorOracle.Content.word(write: SectorOracle.Content.initial, sector: sector)
                unsafe Pages.fill(base + sector * 512, word)
            }
        }
    }

    /// The first sector whose durable content a read with these times could not have returned.
    func firstSectorNotDurable(issued: Int, ended: Int) -> Int? {
        (0..<sectors).first { sector in
            !oracle.allows(volume.words(sector: sector).durable, sector: sector, issued: issued, ended: ended)
        }
    }
}
