internal import NetFrames

/// One thing that an attachment changes on the host, with what it takes to change it back.
enum Change: Hashable {
    /// A bridge of ours.
    case bridge(String)
    case mtu(before: UInt32, after: UInt32)
    /// The interface is a port of it.
    case port(bridge: String, isIsolated: Bool)
    case up
    /// The gateway's address on the interface.
    case address(AddressRange)
    case route(AddressRange)
    /// The host answers for a guest on another interface.
    case proxy(AddressRange, on: String)
    case setting(Setting)
    /// An address in the table of ours.
    case translation(AddressRange)

    /// It goes with the interface, or is part of it.
    func isPart(of interface: String) -> Bool {
        switch self {
        case .mtu, .port, .up, .address, .route: true
        case .setting(let setting): setting.interface == interface
        case .bridge, .proxy, .translation: false
        }
    }

    /// Other attachments may rely on it, too.
    func isShared(by other: Change) -> Bool {
        switch (self, other) {
        case (.bridge(let name), .bridge(let another)): name == another
        case (.setting(let setting), .setting(let another)): setting.path == another.path
        default: false
        }
    }
}

/// One of the kernel's settings for one interface: a file below /proc/sys/net (ip-sysctl).
struct Setting: Hashable {
    enum Family: String { case ipv4, ipv6 }

    let family: Family
    let interface: String
    let name: String
    /// What was there.
    let before: String

    /// It is switched on.
    static let after = "1"

    var path: String { Self.path(family, interface, name) }

    static func path(_ family: Family, _ interface: String, _ name: String) -> String {
        "/proc/sys/net/\(family.rawValue)/conf/\(interface)/\(name)"
    }
}

// MARK: as text

/// One line of blank-separated words.
extension Change: LosslessStringConvertible {
    init?(_ line: String) {
        let words = line.split(separator: " ").map(String.init)
        switch (words.first, words.dropFirst().count) {
        case ("bridge", 1): self = .bridge(words[1])
        case ("port", 2): self = .port(bridge: words[1], isIsolated: words[2] == "isolated")
        case ("up", 0): self = .up
        case ("mtu", 2):
            guard let before = UInt32(words[1]), let after = UInt32(words[2]) else { return nil }
            self = .mtu(before: before, after: after)
        case ("setting", 4):
            guard let family = Setting.Family(rawValue: words[1]) else { return nil }
            self = .setting(Setting(family: family, interface: words[2], name: words[3], before: words[4]))
        case ("proxy", 2):
            guard let range = AddressRange(words[1]) else { return nil }
            self = .proxy(range, on: words[2])
        case (let kind?, 1): self.init(kind, AddressRange(words[1]))
        default: return nil
        }
    }

    private init?(_ kind: String, _ range: AddressRange?) {
        guard let range else { return nil }
        switch kind {
        case "address": self = .address(range)
        case "route": self = .route(range)
        case "translation": self = .translation(range)
        default: return nil
        }
    }

    var description: String {
        switch self {
        case .bridge(let name): "bridge \(name)"
        case .mtu(let before, let after): "mtu \(before) \(after)"
        case .port(let bridge, let isIsolated): "port \(bridge) \(isIsolated ? "isolated" : "open")"
        case .up: "up"
        case .address(let range): "address \(range)"
        case .route(let range): "route \(range)"
        case .proxy(let range, let interface): "proxy \(range) \(interface)"
        case .setting(let setting):
            "setting \(setting.family.rawValue) \(setting.interface) \(setting.name) \(setting.before)"
        case .translation(let range): "translation \(range)"
        }
    }
}
