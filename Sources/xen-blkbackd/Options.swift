public import ArgumentParser
public import BlockBackend
public import Logging
import Service
public import Uring
import XenWire
import Xenbus

/// Which hypervisor the process talks to.
enum Platform: ExpressibleByArgument {
    case live
    case loopback(directory: String)

    init?(argument: String) {
        let parts = argument.split(separator: ":", maxSplits: 1).map(String.init)
        switch parts.first {
        case "live" where parts.count == 1: self = .live
        case "loopback" where parts.count == 2: self = .loopback(directory: parts[1])
        default: return nil
        }
    }

    var defaultValueDescription: String { "live" }
}

/// The command line.
struct Options: ParsableArguments {
    @Option(help: ArgumentHelp("The domain whose disks are served.", valueName: "N"))
    var domid: UInt16

    @Option(help: ArgumentHelp("The domain that this process runs in, if xenstore does not know.", valueName: "N"))
    var backendDomid: UInt16?

    @Option(
        help: ArgumentHelp(
            "A kind of device to serve, may be repeated: vbd, or vbd3 as backendtype=tap makes it. Both if not given.",
            valueName: "vbd|vbd3"))
    var type: [DeviceType] = []

    @Option(help: ArgumentHelp("The hypervisor: live, or loopback:DIR.", valueName: "live|loopback:DIR"))
    var xen: Platform = .live

    @Option(help: "What carries the I/O: auto, io_uring or libaio.")
    var engine: EngineKind = .auto

    @Option(help: "I/O around the page cache: auto (where the volume can), 1 or 0.")
    var direct: DirectMode = .auto

    @Flag(inversion: .prefixedNo, help: "Serve a loop device as the file behind it, where that is the same.")
    var loopFiles = true

    @Option(help: ArgumentHelp("Where locks, status and records are kept.", valueName: "DIR"))
    var stateDir: String?

    @Option(help: "trace, debug, info, notice, warning, error or critical.")
    var logLevel: Logger.Level = .info

    @Flag(help: "Offer write barriers to writable disks.")
    var barrier = false

    @Option(help: ArgumentHelp("Sector size to offer: 512 or 4096.", valueName: "BYTES"))
    var sectorSize = 512

    @Option(help: ArgumentHelp("Segments of an indirect request, 0 to 4096.", valueName: "N"))
    var maxIndirect = 256

    @Option(help: ArgumentHelp("Queues of a disk, 1 to 8.", valueName: "N"))
    var maxQueues = 8

    @Option(help: ArgumentHelp("Ring size to offer, 0 to 4: 1 to 16 pages.", valueName: "N"))
    var maxRingPageOrder = 4

    @Flag(
        inversion: .prefixedNo,
        help: "Let frontends keep their pages granted: a copy of their own instead of a hypercall of ours.")
    var persistentGrants = true

    @Option(help: ArgumentHelp("Buffer memory of a queue in MiB, 1 to 1024.", valueName: "MIB"))
    var bufferCeiling = 8

    /// 0x7FF0 and above have meanings of their own (xen.h, DOMID_FIRST_RESERVED).
    private static let domains = 0...0x7FEF

    func validate() throws {
        try Self.check(Int(domid), in: Self.domains, "--domid")
        try Self.check(Int(backendDomid ?? 0), in: Self.domains, "--backend-domid")
        try Self.check(maxIndirect, in: ConnectionOffer.indirectSegmentRange, "--max-indirect")
        try Self.check(maxQueues, in: ConnectionOffer.queueRange, "--max-queues")
        try Self.check(maxRingPageOrder, in: ConnectionOffer.ringPageOrderRange, "--max-ring-page-order")
        try Self.check(bufferCeiling, in: 1...1024, "--buffer-ceiling")
        guard ConnectionOffer.sectorSizes.contains(sectorSize) else {
            throw ValidationError("--sector-size \(sectorSize): must be 512 or 4096")
        }
    }

    private static func check(_ value: Int, in range: ClosedRange<Int>, _ name: String) throws {
        guard !range.contains(value) else { return }
        throw ValidationError("\(name) \(value): must be \(range.lowerBound) to \(range.upperBound)")
    }
}

// What they amount to.
extension Options {
    func deviceClasses(of backend: DomainID) -> [DeviceClass] {
        DeviceType.allCases.filter { type.isEmpty || type.contains($0) }.map { type in
            // Frontends call their side vbd, whatever the backend's is called.
            DeviceClass(
                backendType: type.rawValue, frontendType: "vbd", backend: backend,
                frontend: DomainID(domid))
        }
    }

    /// Of the files in the state directory. One process serves all disks of a domain, of whichever type: frontends
    /// number them together.
    var stateName: String { "vbd-\(domid)" }

    /// Who else serves a device, and what can be done about it: on a real host the kernel has a backend of its own.
    func holder(of device: DeviceIdentity) -> String? {
        guard case .live = xen, KernelDriver().holds("\(device)") else { return nil }
        return "the kernel's xen-blkback has taken it; to have it served here, blacklist xen_blkback in "
            + "/etc/modprobe.d, unload it (modprobe -r xen-blkback) and attach the disk again"
    }

    var stateDirectory: String {
        if let stateDir { return stateDir }
        if case .loopback(let directory) = xen { return directory + "/state" }
        return "/run/xen-blkbackd"
    }

    func deviceOptions(_ engine: EngineChoice, processors: Int) -> DeviceOptions {
        DeviceOptions(
            offer: ConnectionOffer(
                queues: maxQueues, ringPageOrder: maxRingPageOrder, indirectSegments: maxIndirect,
                sectorSize: sectorSize, persistentGrants: persistentGrants),
            engine: engine, direct: direct, loopFiles: loopFiles, bufferCeiling: bufferCeiling << 20,
            offersBarrier: barrier,
            mayPoll: processors > 1)
    }
}

enum DeviceType: String, ExpressibleByArgument, CaseIterable {
    case vbd, vbd3
}

extension EngineKind: ExpressibleByArgument {}
extension DirectMode: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
