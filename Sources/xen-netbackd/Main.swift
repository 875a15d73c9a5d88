import ArgumentParser
import BackendDaemon
import NetBackend
import XenWire
import Xenbus

@main
struct Main: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "xen-netbackd",
        abstract: "Serves a domain's virtual network interfaces on TAP devices.",
        discussion: """
            One process serves all interfaces of one domain, each on a TAP device vif<domain>.<number> that Xen's scripts \
            attach to a bridge or route to. It ends when the last of them is gone. SIGTERM makes it leave the interfaces \
            connected, for the next process to take over.

            Exit status: 0 after the last interface or a signal, 1 for a failure, 2 for a wrong command line, 75 if an \
            interface appeared just when the process was about to end, so that another one must be started.
            """)

    @OptionGroup var common: DaemonOptions

    @Option(help: ArgumentHelp("Queues of an interface, 1 to 8.", valueName: "N"))
    var maxQueues = 8

    @Flag(
        inversion: .prefixedNo,
        help: "Guests send from their own mac and ip only, unless the node filter says otherwise.")
    var filter = false

    func validate() throws { try DaemonOptions.check(maxQueues, in: NetOffer.queueRange, "--max-queues") }

    func run() throws { try serve() }

    func kind() throws -> BackendKind {
        let (offer, filters) = (NetOffer(queues: maxQueues), filter)
        return BackendKind(
            name: "xen-netbackd", prefix: "vif", statusName: "interface",
            classes: { frontend, backend in
                [DeviceClass(backendType: "vif", frontendType: "vif", backend: backend, frontend: frontend)]
            },
            makeDevice: { identity, platform, _, _, log in
                NetDevice(identity, offer, filters: filters, platform: platform, log: log)
            },
            status: { ($0 as? NetDevice)?.status })
    }

    static func main() { runToEnd() }
}
