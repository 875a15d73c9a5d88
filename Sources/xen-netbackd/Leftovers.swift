import BackendDaemon
import Descriptors
import HostNetwork
import Logging
import NetBackend
import Service
import Tap
import XenWire

/// What earlier processes have attached and made, for interfaces that went while nobody served them.
struct Leftovers {
    private let heritage: Heritage
    private let network: HostNetwork
    /// The one that this process serves.
    private let domain: DomainID
    private let log: Logger
    private var state: StateDirectory { heritage.state }

    init(_ heritage: Heritage, _ domain: DomainID, _ log: Logger) {
        self.heritage = heritage
        self.domain = domain
        self.log = log
        network = HostNetwork(directory: heritage.state.path)
    }

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
        forgetQueues(isPresent)
        removeDevices(isPresent)
    }

    /// Whoever is killed leaves its TAP devices: those of interfaces that are gone, and that nobody serves.
    private func removeDevices(_ isPresent: (DomainID, UInt32) throws -> Bool) {
        for name in state.fileNames {
            guard let (owner, number) = Self.interface(name), (try? isPresent(owner, number)) == false else { continue }
            if owner == domain {
                remove(owner, number, state)
            } else if let lock = try? StateDirectory(state.path, name: "vif-\(owner)") {
                // Nobody begins to serve it meanwhile.
                remove(owner, number, lock)
                lock.unlock()
            }
        }
    }

    /// A TAP device is there as long as somebody has a queue of it. Whether there is a record of it does not matter: another
    /// domain's daemon may have removed that, and could not have the queues given up.
    private func forgetQueues(_ isPresent: (DomainID, UInt32) throws -> Bool) {
        let gone = Set(heritage.descriptors.names.compactMap(NetDevice.interface(ofDescriptor:)))
            .filter { (try? isPresent(domain, $0)) == false }
        let left = heritage.descriptors.names.filter { name in
            NetDevice.interface(ofDescriptor: name).map(gone.contains) ?? false
        }
        for name in left {
            // Ours may be the only handle on a device that a script has renamed.
            if let queue = heritage.descriptors.take(name) { TapDevice.OwnedQueue(queue).letDeviceGo() }
        }
        heritage.manager.forget(left)
    }

    private func remove(_ owner: DomainID, _ number: UInt32, _ files: StateDirectory) {
        do throws(Fault) {
            let record = try files.read(NetDevice.tapRecordName(of: number))
            let device = NetDevice.deviceName(owner.rawValue, number, record: record, boot: BootIdentity.current)
            try TapDevice.remove(device)
            for suffix in NetDevice.recordNames(of: number) { try files.remove(suffix) }
            log.notice("\(device) was left behind: it is removed")
        } catch {
            log.warning("\(error)")
        }
    }

    /// `vif-5.0.tap`: see `NetJournals`.
    private static func interface(_ file: String) -> (DomainID, UInt32)? {
        let words = file.split(separator: ".")
        guard words.count == 3, words[2] == "tap", words[0].hasPrefix("vif-"),
            let owner = UInt16(words[0].dropFirst(4)), let number = UInt32(words[1])
        else { return nil }
        return (DomainID(owner), number)
    }

    /// `vif-5-0`
    private static func parts(_ device: String) -> (DomainID, UInt32)? {
        let words = device.split(separator: "-")
        guard words.count == 3, let owner = UInt16(words[1]), let number = UInt32(words[2]) else { return nil }
        return (DomainID(owner), number)
    }
}
