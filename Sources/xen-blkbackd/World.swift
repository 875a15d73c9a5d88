import Descriptors
import Glibc
import Loopback
import SharedRing
import XenWire
import Xenbus
import Xenstore

/// The hypervisor and its xenstore.
struct World {
    let platform: any RingPlatform
    let connect: () throws(XenstoreError) -> XenstoreClient

    init(_ options: Options) throws {
        guard case .loopback(let directory) = options.xen else {
            throw Fault("--xen live: this version serves loopback worlds only", errno: ENOSYS)
        }
        let domain = DomainID(options.backendDomid)
        platform = try LoopbackPlatform(directory: directory, domain: domain)
        connect = { () throws(XenstoreError) in
            try XenstoreClient(socket: XenstoreServer.socketPath(in: directory, of: domain))
        }
    }
}
