internal import NetFrames

/// What all attachments of this host have changed, or were about to change.
struct Ledger: Equatable {
    /// One attachment.
    struct Entry: Equatable {
        /// Whose: `vif-5-0`.
        let device: String
        /// The interface's number, and its name when it was attached.
        let index: Int32
        let interface: String
        /// What was asked for, as `AttachmentRequest.text`.
        let request: String
        /// In the order in which they are made.
        var changes: [Change]

        /// The guest's, as far as the host knows.
        var addresses: [AddressRange] {
            changes.compactMap { if case .route(let range) = $0 { range } else { nil } }
        }
    }

    var entries: [Entry] = []

    func entry(_ device: String) -> Entry? { entries.first { $0.device == device } }

    /// What of this entry has to be changed back when it goes: nothing that another one needs.
    func changesOnlyOf(_ entry: Entry) -> [Change] {
        let others = entries.filter { $0.device != entry.device }.flatMap(\.changes)
        return entry.changes.filter { change in !others.contains { $0.isShared(by: change) } }
    }

    /// What another entry has done already, with what was there before it.
    func shared(_ change: Change) -> Change? {
        entries.lazy.flatMap(\.changes).first { $0.isShared(by: change) }
    }

    /// The table for all entries.
    var table: TranslationTable {
        TranslationTable(
            guests: entries.flatMap { entry in
                entry.changes.compactMap { change in
                    guard case .translation(let address) = change else { return nil }
                    return .init(interface: entry.index, address: address)
                }
            })
    }
}

/// A line for each entry, and an indented one for each of its changes.
extension Ledger: LosslessStringConvertible {
    /// What is not understood is left out: another version has written it.
    init(_ text: String) {
        for line in text.split(separator: "\n").map(String.init) {
            if let entry = Entry(line) {
                entries.append(entry)
            } else if line.first == " ", let change = Change(line), !entries.isEmpty {
                entries[entries.count - 1].changes.append(change)
            }
        }
    }

    var description: String {
        entries.map { entry in
            (["attachment \(entry.device) \(entry.index) \(entry.interface) \(entry.request)"]
                + entry.changes.map { " \($0)" }).map { $0 + "\n" }.joined()
        }.joined()
    }
}

extension Ledger.Entry {
    fileprivate init?(_ line: String) {
        let words = line.split(separator: " ").map(String.init)
        guard words.count == 5, words[0] == "attachment", let index = Int32(words[2]) else { return nil }
        self.init(device: words[1], index: index, interface: words[3], request: words[4], changes: [])
    }
}
