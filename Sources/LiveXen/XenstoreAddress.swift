internal import CLinux
internal import Descriptors
internal import Glibc
public import Xenstore

/// Where this machine's xenstore is reached.
public enum XenstoreAddress: Equatable, Sendable, CustomStringConvertible {
    /// xenstored's unix socket: a connection of our own, without the kernel between.
    case socket(String)
    /// The kernel's connection.
    case device(String)

    public var description: String {
        switch self {
        case .socket(let path), .device(let path): path
        }
    }

    /// Where to look, the best first.
    ///
    /// - Parameters:
    ///   - path: XENSTORED_PATH of libxenstore: a socket or a device, and then nothing else.
    ///   - directory: XENSTORED_RUNDIR: where xenstored has its socket.
    public static func candidates(path: String?, directory: String?) -> [XenstoreAddress] {
        if let path {
            // The path is only read.
            return [unsafe linux_is_socket(path) == 0 ? .device(path) : .socket(path)]
        }
        return [
            .socket("\(directory ?? "/run/xenstored")/socket"), .device("/dev/xen/xenbus"), .device("/proc/xen/xenbus"),
        ]
    }

    /// A client of the first of the candidates that answers; it reconnects to the same one.
    public static func connect(
        _ candidates: [XenstoreAddress]
    ) throws(MissingPart) -> (address: XenstoreAddress, client: XenstoreClient) {
        var reasons: [String] = []
        for address in candidates {
            do throws(XenstoreError) {
                return (address, try address.client())
            } catch {
                reasons.append(Self.reason(error))
            }
        }
        throw MissingPart("no xenstore (\(reasons.joined(separator: "; "))): start xenstored (systemctl start xen)")
    }

    private static func reason(_ error: XenstoreError) -> String {
        if case .connectionLost(let fault) = error { "\(fault)" } else { "\(error)" }
    }

    private func client() throws(XenstoreError) -> XenstoreClient {
        switch self {
        case .socket(let path): try XenstoreClient(socket: path)
        case .device(let path):
            try XenstoreClient { () throws(Fault) in try XenbusTransport(XenbusDevice(path: path), path: path) }
        }
    }
}
