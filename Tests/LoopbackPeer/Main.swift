import CXen
import Glibc
import Loopback
import SharedRing
import XenWire

/// A backend process that does one thing and then waits to be killed; LoopbackTests start it.
///
///     loopback-peer DIRECTORY map|copy|bind DOMAIN NUMBER
@main
struct Main {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 5, let domain = UInt16(arguments[3]), let number = UInt32(arguments[4]) else {
            throw Misuse()
        }
        let platform = try LoopbackPlatform(directory: arguments[1], domain: DomainID(0))
        let table = try platform.openGrantTable()
        switch arguments[2] {
        case "map":
            let mapping = try table.map([GrantReference(number)], of: DomainID(domain), writable: true)
            unsafe mapping.base.storeBytes(of: 0x5a, as: UInt8.self)
            waitForever()
            _ = consume mapping
        case "copy": copyForever(table, DomainID(domain), GrantReference(number))
        case "bind":
            let channel = try platform.bindEventChannel(to: EventPort(number), of: DomainID(domain))
            channel.notify()
            waitForever()
        default: throw Misuse()
        }
    }

    struct Misuse: Error {}

    static func waitForever() {
        sayReady()
        while true { pause() }
    }

    /// Unbuffered, because whoever started this waits for it.
    static func sayReady() {
        _ = unsafe write(STDOUT_FILENO, "ready\n", 6)
    }

    /// One copy after the other: killed at a random instruction.
    static func copyForever(_ table: any GrantTable, _ domain: DomainID, _ reference: GrantReference) {
        let page = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        let count = 64
        let segments = UnsafeMutablePointer<xen_grant_copy_segment>.allocate(capacity: count)
        for index in 0..<count {
            unsafe (segments + index).initialize(
                to: .fromGuest(domain, reference, offset: 0, length: 4096, to: page))
        }
        sayReady()
        while true { _ = unsafe table.copy(segments, count: count, .fromGuest) }
    }
}
