internal import CLinux
internal import Descriptors
internal import Glibc

/// A conversation with the kernel, one request after the other.
final class NetlinkSocket {
    private let descriptor: OwnedDescriptor
    private var sequence: UInt32 = 0

    /// - Parameter family: `NETLINK_ROUTE` or `NETLINK_NETFILTER`.
    init(_ family: Int32) throws(Fault) {
        let number = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), family)
        descriptor = try OwnedDescriptor(number < 0 ? -errno : number, "open a netlink socket")
    }

    /// Has something done; `operation` says what, for the fault.
    func request(_ message: NetlinkMessage, _ operation: String) throws(Fault) {
        let number = nextSequence()
        try send(message.bytes(NLM_F_ACK, sequence: number), operation)
        try confirm(number...number, operation)
    }

    /// Has everything done or nothing (nfnetlink's batches): what stands between the two messages that enclose it.
    func transact(_ messages: [NetlinkMessage], from begin: NetlinkMessage, to end: NetlinkMessage, _ operation: String)
        throws(Fault)
    {
        let first = nextSequence()
        var bytes = begin.bytes(sequence: first)
        for (index, message) in messages.enumerated() {
            // Errors come in the messages' order, so the last one's answer is the last of all.
            bytes += message.bytes(index == messages.count - 1 ? NLM_F_ACK : 0, sequence: nextSequence())
        }
        let last = sequence
        bytes += end.bytes(sequence: nextSequence())
        try send(bytes, operation)
        try confirm(first...last, operation)
    }

    /// Everything of a kind.
    func dump(_ message: NetlinkMessage, _ operation: String) throws(Fault) -> [NetlinkReply] {
        let number = nextSequence()
        try send(message.bytes(NLM_F_DUMP, sequence: number), operation)
        var found: [NetlinkReply] = []
        while true {
            for reply in try receive(operation) where reply.sequence == number {
                if let code = reply.errorCode { throw Fault(operation, errno: code) }
                if reply.isEnd { return found }
                found.append(reply)
            }
        }
    }

    private func nextSequence() -> UInt32 {
        sequence &+= 1
        return sequence
    }

    private func send(_ bytes: [UInt8], _ operation: String) throws(Fault) {
        // The array lives for the call. Without an address a message goes to the kernel (netlink(7)).
        let sent = unsafe Glibc.send(descriptor.number, bytes, bytes.count, 0)
        guard sent == bytes.count else { throw Fault(operation, errno: sent < 0 ? errno : EMSGSIZE) }
    }

    /// The first error of these messages, or the last one's acknowledgement. What an earlier request left unread is
    /// skipped.
    private func confirm(_ numbers: ClosedRange<UInt32>, _ operation: String) throws(Fault) {
        while true {
            for reply in try receive(operation) where numbers.contains(reply.sequence) {
                guard let code = reply.errorCode else { continue }
                guard code == 0 else { throw Fault(operation, errno: code) }
                if reply.sequence == numbers.upperBound { return }
            }
        }
    }

    private func receive(_ operation: String) throws(Fault) -> [NetlinkReply] {
        // More than the kernel puts into one datagram of a dump (NLMSG_GOODSIZE and af_netlink.c: 32 KiB).
        var buffer = [UInt8](repeating: 0, count: 65536)
        var got: Int
        repeat {
            // As many bytes as are said.
            got = unsafe recv(descriptor.number, &buffer, buffer.count, 0)
        } while got < 0 && errno == EINTR
        guard got >= 0 else { throw Fault(operation, errno: errno) }
        return NetlinkReply.all(in: Array(buffer.prefix(got)))
    }
}
