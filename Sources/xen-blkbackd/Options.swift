public import ArgumentParser
import BackendDaemon
public import BlockBackend
import Service
public import Uring
import XenWire
import Xenbus

/// The command line.
struct Options: ParsableArguments {
    @OptionGroup var common: DaemonOptions

    @Option(
        help: ArgumentHelp(
            "A kind of device to serve, may be repeated: vbd, or vbd3 as backendtype=tap makes it. Both if not given.",
            valueName: "vbd|vbd3"))
    var type: [DeviceType] = []

    @Option(help: "What carries the I/O: auto, io_uring or libaio.")
    var engine: EngineKind = .auto

    @Option(help: "I/O around the page cache: auto (where the volume can), 1 or 0.")
    var direct: DirectMode = .auto

    @Flag(inversion: .prefixedNo, help: "Serve a loop device as the file behind it, where that is the same.")
    var loopFiles = true

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

    func validate() throws {
        try DaemonOptions.check(maxIndirect, in: ConnectionOffer.indirectSegmentRange, "--max-indirect")
        try DaemonOptions.check(maxQueues, in: ConnectionOffer.queueRange, "--max-queues")
        try DaemonOptions.check(maxRingPageOrder, in: ConnectionOffer.ringPageOrderRange, "--max-ring-page-order")
        try DaemonOptions.check(bufferCeiling, in: 1...1024, "--buffer-ceiling")
        guard ConnectionOffer.sectorSizes.contains(sectorSize) else {
            throw ValidationError("--sector-size \(sectorSize): must be 512 or 4096")
        }
    }
}

// What they amount to.
extension Options {
    func deviceClasses(_ frontend: DomainID, _ backend: DomainID) -> [DeviceClass] {
        DeviceType.allCases.filter { type.isEmpty || type.contains($0) }.map { type in
            // Frontends call their side vbd, whatever the backend's is called.
            DeviceClass(
                backendType: type.rawValue, frontendType: "vbd", backend: backend,
                frontend: frontend)
        }
    }

    /// Who else serves a device, and what can be done about it: on a real host the kernel has a backend of its own.
    func holder(of device: DeviceIdentity) -> String? {
        guard case .live = common.xen, KernelDriver().holds("\(device)") else { return nil }
        return "the kernel's xen-blkback has taken it; to have it served here, blacklist xen_blkback in "
            + "/etc/modprobe.d, unload it (modprobe -r xen-blkback) and attach the disk again"
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
