/// `enum xenbus_state` (io/xenbus.h): what either end of a split device says of itself in its `state` node.
public enum XenbusState: UInt8, CaseIterable, Sendable, CustomStringConvertible {
    case unknown = 0
    case initialising
    case initWait
    case initialised
    case connected
    case closing
    case closed
    case reconfiguring
    case reconfigured

    /// The state that a node's text names; anything that is not one digit from 0 to 8 is `unknown`, as in Linux.
    public init(text: String) {
        let digits = Array(text.utf8)
        let number = digits.count == 1 ? digits[0] &- UInt8(ascii: "0") : 0
        self = XenbusState(rawValue: number) ?? .unknown
    }

    /// The node's text.
    public var text: String { String(rawValue) }

    /// The name of io/xenbus.h without its prefix.
    public var description: String {
        switch self {
        case .unknown: "Unknown"
        case .initialising: "Initialising"
        case .initWait: "InitWait"
        case .initialised: "Initialised"
        case .connected: "Connected"
        case .closing: "Closing"
        case .closed: "Closed"
        case .reconfiguring: "Reconfiguring"
        case .reconfigured: "Reconfigured"
        }
    }
}

/// What the hotplug script has said in `hotplug-status`.
public enum HotplugStatus: Sendable, CaseIterable {
    /// There is no such node.
    case absent
    /// The node is empty or says something unknown: the script has not finished (libxl creates it empty for vifs).
    case pending
    /// The script is done.
    case connected
    /// The script failed; the toolstack takes the device away.
    case failed

    /// The meaning of a node's text.
    public init(text: String?) {
        switch text {
        case nil: self = .absent
        case "connected": self = .connected
        case "error", "busy": self = .failed
        default: self = .pending
        }
    }
}
