internal import Tap

/// What is written down of an interface's TAP device: its number, which stays when a script gives it another name, and the
/// run of the host in which that number was its.
enum TapRecord {
    static func text(_ index: Int32, boot: String) -> String { "\(boot) \(index)\n" }

    /// Nil if the device is not known by its number: it was about to be made, or the record is of another run.
    static func index(in text: String?, boot: String) -> Int32? {
        guard let words = text?.split(whereSeparator: \.isWhitespace), words.count == 2, words[0] == boot else {
            return nil
        }
        return Int32(words[1])
    }

    /// What the device is called now, or is to be called if there is none.
    static func name(in text: String?, boot: String, otherwise name: String) -> String {
        index(in: text, boot: boot).flatMap { TapDevice.name(ofIndex: $0) } ?? name
    }
}
