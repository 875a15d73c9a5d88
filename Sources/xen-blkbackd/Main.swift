import ArgumentParser
import BackendDaemon
import BlockBackend
import Descriptors
import Logging
import Service
import Uring
import XenWire

@main
struct Main: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-blkbackd",
        abstract: "Serves a domain's virtual disks from LVM volumes, other block devices and raw files.",
        discussion: """
            One process serves all disks of one domain. It ends when the last of them is gone. SIGTERM makes it finish \
            what is in flight and leave the disks connected, for the next process to take over.

            Exit status: 0 after the last disk or a signal, 1 for a failure, 2 for a wrong command line, 3 if another \
            process serves the domain, 75 if a disk appeared just when the process was about to end, so that another one \
            must be started.
            """)

    @OptionGroup var options: Options

    var common: DaemonOptions { options.common }

    func run() throws { try serve() }

    func kind() throws -> BackendKind {
        let engine = try EngineChoice(for: options.engine)
        Logger(label: "xen-blkbackd").info("\(engine.reason)")
        let deviceOptions = options.deviceOptions(engine, processors: ProcessLimits.processors)
        return BackendKind(
            // One process serves all disks of a domain, of whichever type: frontends number them together.
            name: "xen-blkbackd", prefix: "vbd", statusName: "disk", classes: options.deviceClasses,
            holder: options.holder,
            clearAway: { [domain = DomainID(common.domid)] heritage, isPresent, log in
                Leftovers(state: heritage.state, domain: domain, log: log).clearAway(isPresent)
            },
            makeDevice: { identity, platform, clock, heritage, log in
                Device(
                    identity, deviceOptions, platform: platform, clock: clock, records: RecordFiles(heritage.state),
                    log: log)
            },
            status: { ($0 as? Device)?.status })
    }

    static func main() { runToEnd() }
}

/// Records of devices as files of the state directory.
private final class RecordFiles: DeviceRecords {
    private let state: StateDirectory
    init(_ state: StateDirectory) { self.state = state }

    func record(_ name: String) throws(Fault) -> String? { try state.read(name) }

    func setRecord(_ name: String, _ text: String?) throws(Fault) {
        if let text { try state.replace(name, with: text) } else { try state.remove(name) }
    }

    func journal(_ name: String, bytes: Int?, making: Bool) throws(Fault) -> MappedFile? {
        making
            ? try MappedFile(creating: state.path(of: name + ".new"), bytes: bytes ?? 0)
            : try MappedFile(opening: state.path(of: name), bytes: bytes)
    }

    func settle(_ name: String) throws(Fault) { try state.rename(name + ".new", name) }

    let boot = BootIdentity.current
}
