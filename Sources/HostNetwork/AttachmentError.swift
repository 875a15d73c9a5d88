public import Descriptors
internal import Glibc
public import NetFrames

/// Why an interface is not attached; the text is one line that names the thing.
public enum AttachmentError: Error, Equatable, Sendable, CustomStringConvertible {
    case missingBridge(String)
    case noBridge(String)
    case missingUplink(String)
    /// Without addresses there is nothing to route.
    case addressMissing(AttachmentMode)
    /// Only single IPv4 addresses out of the network, and not the gateway's, can be behind the host's.
    case addressUnfit(AddressRange, AttachmentMode)
    /// Who wants the address, and who has it: another guest's device, or an interface of the host's.
    case addressTaken(AddressRange, by: String, wantedBy: String)
    /// The kernel cannot forward IPv6 for single interfaces, and does not for all.
    case noForwarding
    /// CAP_NET_ADMIN is missing.
    case notPermitted(String)
    case fault(Fault)

    init(_ fault: Fault) {
        self = [EPERM, EACCES].contains(fault.code) ? .notPermitted(fault.operation) : .fault(fault)
    }

    public var description: String {
        switch self {
        case .missingBridge(let name): "bridge \(name) does not exist"
        case .noBridge(let name): "\(name) is no bridge"
        case .missingUplink(let name): "gatewaydev \(name) does not exist"
        case .addressMissing(let mode): "ip missing: \(mode) needs the guest's addresses"
        case .addressUnfit(let range, let mode): "ip \(range): \(mode) takes one IPv4 address of it, not the first"
        case .addressTaken(let range, let holder, let device):
            "\(device) cannot have address \(range): \(holder) has it"
        case .noForwarding: "IPv6 is not forwarded: net.ipv6.conf.all.forwarding is 0"
        case .notPermitted(let operation): "\(operation): not permitted, CAP_NET_ADMIN is missing"
        case .fault(let fault): fault.description
        }
    }
}
