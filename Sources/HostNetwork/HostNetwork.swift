internal import CLinux
public import Descriptors
internal import Glibc
internal import NetFrames

/// The host's network as far as this project changes it: attaches guests' interfaces, and leaves nothing behind.
///
/// What is to be done is in a ledger before it is done. All daemons of the host share the ledger, so that whoever comes next
/// can undo what belongs to interfaces that are gone.
public struct HostNetwork: Sendable {
    /// Where the ledger is.
    let directory: String

    public init(directory: String) { self.directory = directory }

    /// Attaches an interface: does nothing if that is so already, and whatever is missing if it is so in part.
    ///
    /// - Parameters:
    ///   - device: whose interface it is, as the ledger has it: `vif-5-0`.
    ///   - index: the interface's number.
    /// - Throws: after everything that was changed has been changed back.
    public func attach(_ device: String, index: Int32, _ request: AttachmentRequest) throws(AttachmentError) {
        let session = try Session(attachingIn: directory)
        try session.attach(device, index, request)
    }

    /// Undoes it; nothing happens if there is nothing to undo.
    public func detach(_ device: String) throws(Fault) {
        let session = try Session(directory)
        guard let entry = session.ledger.entry(device) else { return }
        try session.undo(entry)
    }

    /// Undoes what belongs to interfaces that are gone. An interface whose device is gone goes as well.
    ///
    /// - Returns: the devices that were cleared away.
    public func recover(isGone: (_ device: String) -> Bool) throws(Fault) -> [String] {
        let session = try Session(directory)
        let before = session.ledger.entries.map(\.device)
        for entry in session.ledger.entries where isGone(entry.device) {
            try session.undo(entry)
            try session.removeInterface(of: entry)
        }
        try session.undoGone()
        return before.filter { session.ledger.entry($0) == nil }
    }
}
