import Descriptors
import Logging
import Service
import XenWire

/// Journals of disks that went while nobody served them.
struct Leftovers {
    let state: StateDirectory
    /// The one that this process serves.
    let domain: DomainID
    let log: Logger

    func clearAway(_ isPresent: (DomainID, UInt32) throws -> Bool) {
        for name in state.fileNames {
            guard let (owner, number, suffix) = Self.journal(name), (try? isPresent(owner, number)) == false else {
                continue
            }
            if owner == domain {
                remove(suffix, state)
            } else if let lock = try? StateDirectory(state.path, name: "vbd-\(owner)") {
                // Nobody begins to serve it meanwhile.
                remove(suffix, lock)
                lock.unlock()
            }
        }
    }

    private func remove(_ suffix: String, _ files: StateDirectory) {
        do throws(Fault) {
            try files.remove(suffix)
            log.notice("\(files.path(of: suffix)): the disk has gone, its journal is removed")
        } catch {
            log.warning("\(error)")
        }
    }

    /// `vbd-5.51712.queue0`: whose it is, and what it is called among the domain's files.
    private static func journal(_ file: String) -> (DomainID, UInt32, String)? {
        let words = file.split(separator: ".")
        guard words.count == 3, words[2].hasPrefix("queue"), words[0].hasPrefix("vbd-"),
            let owner = UInt16(words[0].dropFirst(4)), let number = UInt32(words[1])
        else { return nil }
        return (DomainID(owner), number, "\(words[1]).\(words[2])")
    }
}
