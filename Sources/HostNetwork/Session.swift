internal import CLinux
internal import Descriptors
internal import Glibc
internal import NetFrames

/// The ledger and the kernel for as long as one thing takes.
final class Session {
    private let file: LedgerFile
    private let route: NetlinkSocket
    private(set) var ledger: Ledger

    init(_ directory: String) throws(Fault) {
        file = try LedgerFile(in: directory)
        route = try NetlinkSocket(NETLINK_ROUTE)
        ledger = try file.read()
    }

    // MARK: attaching

    /// What belongs to interfaces that are gone is undone first: it may be in the way.
    convenience init(attachingIn directory: String) throws(AttachmentError) {
        do throws(Fault) {
            try self.init(directory)
            try undoGone()
        } catch {
            throw AttachmentError(error)
        }
    }

    func attach(_ device: String, _ index: Int32, _ request: AttachmentRequest) throws(AttachmentError) {
        if let entry = ledger.entry(device) {
            if entry.index == index, entry.request == request.text { return try make(entry, isAgain: true) }
            try hosted { () throws(Fault) in try undo(entry) }
        }
        try make(try note(device, index, request), isAgain: false)
    }

    /// Decides what is to be done, and writes it down.
    func note(
        _ device: String, _ index: Int32, _ request: AttachmentRequest
    ) throws(AttachmentError) -> Ledger.Entry {
        let host = try hosted { () throws(Fault) in try HostState(route) }
        guard let link = host.link(index) else { throw .fault(Fault("find interface \(index)", errno: ENODEV)) }
        let plan = AttachmentPlan(
            device: device, interface: link, request: request, host: host, ledger: ledger, setting: Settings.read)
        let entry = Ledger.Entry(
            device: device, index: index, interface: link.name, request: request.text, changes: try plan.changes())
        ledger.entries.append(entry)
        try hosted { () throws(Fault) in try file.write(ledger) }
        return entry
    }

    /// Everything or nothing.
    private func make(_ entry: Ledger.Entry, isAgain: Bool) throws(AttachmentError) {
        do throws(AttachmentError) {
            for change in entry.changes { try make(change, for: entry, isAgain: isAgain) }
        } catch {
            // The failure says more than what fails after it; what is left stays in the ledger.
            do throws(Fault) { try undo(entry) } catch {}
            throw error
        }
    }

    /// - Parameter isAgain: what is there already may be ours.
    func make(_ change: Change, for entry: Ledger.Entry, isAgain: Bool) throws(AttachmentError) {
        do throws(Fault) {
            try perform(change, for: entry)
        } catch {
            switch change {
            case .port(let bridge, _) where error.code == ENODEV: throw .missingBridge(bridge)
            case .bridge where error.code == EEXIST: return
            case .address where error.code == EEXIST && isAgain: return
            case .route where error.code == EEXIST && isAgain: return
            default: throw AttachmentError(error)
            }
        }
    }

    private func perform(_ change: Change, for entry: Ledger.Entry) throws(Fault) {
        let operation = "\(entry.interface): \(change)"
        switch change {
        case .bridge(let name): try route.request(RouteMessages.createBridge(name), operation)
        case .mtu(_, let bytes): try route.request(RouteMessages.setMTU(entry.index, bytes), operation)
        case .port(let name, let isIsolated):
            try route.request(RouteMessages.setMaster(entry.index, try link(name, operation).index), operation)
            if isIsolated { try route.request(RouteMessages.setIsolated(entry.index, true), operation) }
        case .up: try route.request(RouteMessages.setUp(entry.index, true), operation)
        case .address(let range): try route.request(RouteMessages.add(range, to: entry.index), operation)
        case .route(let range): try route.request(RouteMessages.route(range, through: entry.index), operation)
        case .proxy(let range, let name):
            try route.request(RouteMessages.answer(for: range, on: try link(name, operation).index), operation)
        case .setting(let setting): try Settings.write(setting.path, Setting.after)
        case .translation: try replaceTable(operation)
        }
    }

    private func link(_ name: String, _ operation: String) throws(Fault) -> HostState.Link {
        guard let link = try links().first(where: { $0.name == name }) else { throw Fault(operation, errno: ENODEV) }
        return link
    }

    private func links() throws(Fault) -> [HostState.Link] {
        try route.dump(RouteMessages.links, "list the network interfaces").compactMap { HostState.Link($0) }
    }

    private func replaceTable(_ operation: String) throws(Fault) {
        try NetlinkSocket(NETLINK_NETFILTER).transact(
            ledger.table.messages, from: TranslationTable.begin, to: TranslationTable.end, operation)
    }

    private func hosted<Value>(_ body: () throws(Fault) -> Value) throws(AttachmentError) -> Value {
        do throws(Fault) { return try body() } catch { throw AttachmentError(error) }
    }

    // MARK: undoing

    /// Undoes what belongs to interfaces that are gone.
    func undoGone() throws(Fault) {
        let present = try links().map(\.index)
        for entry in ledger.entries where !present.contains(entry.index) { try undo(entry) }
    }

    /// Backwards. What fails stays in the ledger for another time, and does not keep the rest.
    func undo(_ entry: Ledger.Entry) throws(Fault) {
        let changes = ledger.changesOnlyOf(entry)
        ledger.entries.removeAll { $0.device == entry.device }
        var (left, failure) = ([Change](), Fault?.none)
        for change in changes.reversed() {
            do throws(Fault) {
                try undo(change, of: entry)
            } catch {
                left.insert(change, at: 0)
                failure = failure ?? error
            }
        }
        if !left.isEmpty {
            var rest = entry
            rest.changes = left
            ledger.entries.append(rest)
        }
        try file.write(ledger)
        if let failure { throw failure }
    }

    /// What is gone, or no longer as it was made, needs no undoing.
    private func undo(_ change: Change, of entry: Ledger.Entry) throws(Fault) {
        if change.isPart(of: entry.interface), try !links().contains(where: { $0.index == entry.index }) { return }
        do throws(Fault) {
            try revert(change, of: entry)
        } catch {
            guard [ENODEV, ENXIO, ENOENT, ESRCH, EADDRNOTAVAIL].contains(error.code) else { throw error }
        }
    }

    private func revert(_ change: Change, of entry: Ledger.Entry) throws(Fault) {
        let operation = "\(entry.interface): undo \(change)"
        switch change {
        case .bridge(let name): try removeBridge(name, operation)
        case .mtu(let bytes, _): try route.request(RouteMessages.setMTU(entry.index, bytes), operation)
        case .port(let name, _): try leave(name, entry, operation)
        case .up: try route.request(RouteMessages.setUp(entry.index, false), operation)
        case .address(let range): try route.request(RouteMessages.remove(range, from: entry.index), operation)
        case .route(let range): try route.request(RouteMessages.removeRoute(range, through: entry.index), operation)
        case .proxy(let range, let name):
            try route.request(RouteMessages.stopAnswering(for: range, on: try link(name, operation).index), operation)
        case .setting(let setting):
            guard Settings.read(setting.path) == Setting.after else { return }
            try Settings.write(setting.path, setting.before)
        case .translation: try replaceTable(operation)
        }
    }

    /// Somebody may have moved the interface to another bridge.
    private func leave(_ name: String, _ entry: Ledger.Entry, _ operation: String) throws(Fault) {
        let bridge = try link(name, operation)
        guard try links().contains(where: { $0.index == entry.index && $0.master == bridge.index }) else { return }
        try route.request(RouteMessages.setMaster(entry.index, 0), operation)
    }

    /// One that the host's owner has put ports into is the owner's from then on.
    private func removeBridge(_ name: String, _ operation: String) throws(Fault) {
        let bridge = try link(name, operation)
        guard bridge.kind == "bridge", try !links().contains(where: { $0.master == bridge.index }) else { return }
        try route.request(RouteMessages.deleteLink(bridge.index), operation)
    }

    /// The TAP device of a guest that went while nobody served it.
    func removeInterface(of entry: Ledger.Entry) throws(Fault) {
        let found = try links().first { $0.index == entry.index }
        guard let found, found.name == entry.interface, found.kind == "tun" else { return }
        try route.request(RouteMessages.deleteLink(found.index), "remove \(found.name)")
    }
}

/// Files below /proc/sys.
enum Settings {
    /// The text without its end; nil if there is no such file.
    static func read(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 64)
        // `buffer` has as many bytes as are said.
        let got = unsafe linux_read_file(path, &buffer, buffer.count)
        guard got >= 0 else { return nil }
        return String(decoding: buffer.prefix(got).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    static func write(_ path: String, _ value: String) throws(Fault) {
        let bytes = Array(value.utf8)
        // The array lives for the call.
        let result = unsafe linux_write_setting(path, bytes, bytes.count)
        guard result == 0 else { throw Fault("write \(path)", errno: -result) }
    }
}
