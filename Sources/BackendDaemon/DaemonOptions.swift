public import ArgumentParser
public import Logging

/// Which hypervisor the process talks to.
public enum Platform: ExpressibleByArgument, Sendable {
    case live
    case loopback(directory: String)

    public init?(argument: String) {
        let parts = argument.split(separator: ":", maxSplits: 1).map(String.init)
        switch parts.first {
        case "live" where parts.count == 1: self = .live
        case "loopback" where parts.count == 2: self = .loopback(directory: parts[1])
        default: return nil
        }
    }

    public var defaultValueDescription: String { "live" }
}

/// What the command lines of all daemons have in common.
public struct DaemonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The domain whose devices are served.", valueName: "N"))
    public var domid: UInt16

    @Option(help: ArgumentHelp("The domain that this process runs in, if xenstore does not know.", valueName: "N"))
    public var backendDomid: UInt16?

    @Option(help: ArgumentHelp("The hypervisor: live, or loopback:DIR.", valueName: "live|loopback:DIR"))
    public var xen: Platform = .live

    @Option(help: ArgumentHelp("Where locks, status and records are kept.", valueName: "DIR"))
    public var stateDir: String?

    @Flag(help: "Say whether this version can serve on what another process has in flight, and end.")
    public var checkJournals = false

    @Option(help: "trace, debug, info, notice, warning, error or critical.")
    public var logLevel: Logger.Level = .info

    public init() {}

    /// 0x7FF0 and above have meanings of their own (xen.h, DOMID_FIRST_RESERVED).
    private static let domains = 0...0x7FEF

    public func validate() throws {
        try Self.check(Int(domid), in: Self.domains, "--domid")
        try Self.check(Int(backendDomid ?? 0), in: Self.domains, "--backend-domid")
    }

    /// The rule for a number on a command line.
    public static func check(_ value: Int, in range: ClosedRange<Int>, _ name: String) throws {
        guard !range.contains(value) else { return }
        throw ValidationError("\(name) \(value): must be \(range.lowerBound) to \(range.upperBound)")
    }

    func stateDirectory(of program: String) -> String {
        if let stateDir { return stateDir }
        if case .loopback(let directory) = xen { return directory + "/state" }
        return "/run/\(program)"
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
