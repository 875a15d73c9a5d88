internal import Descriptors
internal import Service
internal import SharedRing

/// Whether this version can read the journals that a process, which may be running, keeps of a domain's devices.
struct JournalCheck {
    private let directory: String
    private let name: String

    /// - Parameter name: what the domain's files begin with.
    init(in directory: String, name: String) {
        self.directory = directory
        self.name = name
    }

    /// Throws what cannot be read.
    func run() throws {
        for file in StateDirectory.files(in: directory) where file.hasPrefix("\(name).") && isJournal(file) {
            guard let mapped = try MappedFile(opening: "\(directory)/\(file)", bytes: nil) else { continue }
            do throws(JournalRefusal) {
                _ = try Journal(reading: mapped)
            } catch {
                throw Refusal(description: "\(directory)/\(file): \(error)")
            }
        }
    }

    /// `vbd-5.51712.queue0`, `vif-5.0.policy`
    private func isJournal(_ file: String) -> Bool {
        guard let kind = file.split(separator: ".").last else { return false }
        return kind == "policy" || kind.hasPrefix("queue") && kind.dropFirst(5).allSatisfy(\.isNumber)
    }

    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }
}
