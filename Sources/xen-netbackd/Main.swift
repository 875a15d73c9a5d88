import ArgumentParser
import BackendDaemon
import Descriptors
import HostNetwork
import NetBackend
import Service
import XenWire
import Xenbus

@main
struct Main: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-netbackd",
        abstract: "Serves a domain's virtual network interfaces on TAP devices.",
        discussion: """
            One process serves all interfaces of one domain, each on a TAP device vif<domain>.<number> that Xen's scripts \
            attach to a bridge or route to. An interface without a node script is attached as --attach says, or its own \
            node attach. The process ends when the last of them is gone. SIGTERM makes it leave the interfaces \
            connected, for the next process to take over.

            Exit status: 0 after the last interface or a signal, 1 for a failure, 2 for a wrong command line, 3 if another \
            process serves the domain, 75 if an interface appeared just when the process was about to end, so that another \
            one must be started.
            """)

    @OptionGroup var common: DaemonOptions

    @Option(help: ArgumentHelp("Queues of an interface, 1 to 8.", valueName: "N"))
    var maxQueues = 8

    @Flag(
        inversion: .prefixedNo,
        help: "Guests send from their own mac and ip only, unless the node filter says otherwise.")
    var filter = false

    @Option(
        help: ArgumentHelp(
            "How interfaces without a script are attached.",
            valueName: "none|bridge=NAME[,create][,isolated]|routed|nat=SUBNET"))
    var attach = AttachOption(mode: nil)

    func validate() throws { try DaemonOptions.check(maxQueues, in: NetOffer.queueRange, "--max-queues") }

    func run() throws { try serve() }

    func kind() throws -> BackendKind {
        let (offer, filters, mode, domain) = (NetOffer(queues: maxQueues), filter, attach.mode, DomainID(common.domid))
        return BackendKind(
            name: "xen-netbackd", prefix: "vif", statusName: "interface",
            classes: { frontend, backend in
                [DeviceClass(backendType: "vif", frontendType: "vif", backend: backend, frontend: frontend)]
            },
            clearAway: { heritage, isPresent, log in
                Leftovers(heritage, domain, log).clearAway(isPresent)
            },
            makeDevice: { identity, platform, _, heritage, log in
                NetDevice(
                    identity, offer, filters: filters,
                    attachment: NetAttachment(HostNetwork(directory: heritage.state.path), unlessSaid: mode),
                    platform: platform, records: Records(heritage), log: log)
            },
            status: { ($0 as? NetDevice)?.status })
    }

    static func main() { runToEnd() }
}

/// Records of interfaces as files of the state directory, and their descriptors with the service manager.
private final class Records: InterfaceRecords {
    private let heritage: Heritage
    private var state: StateDirectory { heritage.state }
    init(_ heritage: Heritage) { self.heritage = heritage }

    func journal(_ name: String, bytes: Int, making: Bool) throws(Fault) -> MappedFile? {
        making
            ? try MappedFile(creating: state.path(of: name + ".new"), bytes: bytes)
            : try MappedFile(opening: state.path(of: name), bytes: bytes)
    }

    func hasRecord(_ name: String) -> Bool { state.has(name) }

    func record(_ name: String) -> String? {
        do throws(Fault) { return try state.read(name) } catch { return nil }
    }

    func setRecord(_ name: String, _ text: String?) throws(Fault) {
        if let text { try state.replace(name, with: text) } else { try state.remove(name) }
    }

    func settle(_ name: String) throws(Fault) { try state.rename(name + ".new", name) }

    func take(descriptor name: String) -> OwnedDescriptor? { heritage.descriptors.take(name) }

    func keep(_ descriptor: Int32, as name: String) { heritage.manager.keep(descriptor, as: name) }

    func forget(descriptors names: [String]) { heritage.manager.forget(names) }

    let boot = BootIdentity.current
}

/// The value of `--attach`.
struct AttachOption: ExpressibleByArgument {
    /// Nil: none.
    let mode: AttachmentMode?

    init(mode: AttachmentMode?) { self.mode = mode }

    init?(argument: String) {
        mode = AttachmentMode(argument)
        guard mode != nil || argument == "none" else { return nil }
    }

    var defaultValueDescription: String { mode?.description ?? "none" }
}
