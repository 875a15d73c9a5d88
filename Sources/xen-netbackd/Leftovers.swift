import Descriptors
import HostNetwork
import Logging
import Service
import XenWire

/// What earlier processes have attached, for interfaces that went while nobody served them.
struct Leftovers {
    let network: HostNetwork
    let state: StateDirectory
    /// The one that this process serves.
    let domain: DomainID
    let log: Logger

    func clearAway(_ isPresent: (DomainID, UInt32) throws -> Bool) {
        // A domain's lock is held until all is undone, so that no other process begins to serve it meanwhile.
        var locks: [StateDirectory] = []
        do throws(Fault) {
            let cleared = try network.recover { device in
                guard let (owner, number) = Self.parts(device), (try? isPresent(owner, number)) == false else {
                    return false
                }
                if owner == domain { return true }
                // Served still: its own process undoes it.
                guard let lock = try? StateDirectory(state.path, name: "vif-\(owner)") else { return false }
                locks.append(lock)
                return true
            }
            for device in cleared { log.notice("\(device) has gone: what was done for it is undone") }
        } catch {
            log.warning("\(error)")
        }
        for lock in locks { lock.unlock() }
    }

    /// `vif-5-0`
    private static func parts(_ device: String) -> (DomainID, UInt32)? {
        let words = device.split(separator: "-")
        guard words.count == 3, let owner = UInt16(words[1]), let number = UInt32(words[2]) else { return nil }
        return (DomainID(owner), number)
    }
}
