internal import Descriptors
internal import LiveXen
internal import Logging
internal import Loopback
internal import SharedRing
internal import XenWire
internal import Xenbus
internal import Xenstore

/// The hypervisor and its xenstore.
struct World {
    let platform: any RingPlatform
    let connect: () throws -> XenstoreClient

    init(_ options: DaemonOptions, _ environment: Environment, _ log: Logger) throws {
        switch options.xen {
        case .live: try self.init(live: environment, log)
        case .loopback(let directory): try self.init(loopback: directory, DomainID(options.backendDomid ?? 0))
        }
    }

    private init(live environment: Environment, _ log: Logger) throws {
        platform = try LivePlatform()
        connect = {
            let candidates = XenstoreAddress.candidates(
                path: environment.xenstorePath, directory: environment.xenstoreDirectory)
            let (address, client) = try XenstoreAddress.connect(candidates)
            log.info("xenstore: \(address)")
            return client
        }
    }

    private init(loopback directory: String, _ domain: DomainID) throws {
        platform = try LoopbackPlatform(directory: directory, domain: domain)
        connect = { try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: domain)) }
    }
}
