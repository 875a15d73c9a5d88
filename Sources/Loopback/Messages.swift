internal import CLinux
internal import Descriptors
internal import XenWire

/// What a process asks of the model hypervisor: one packet asks, one packet answers.
///
/// Every grant table handle and every bound port has its own connection, as every one has its own descriptor of
/// /dev/xen/gntdev and /dev/xen/evtchn in the real world; the end of the connection releases it, however the process
/// ended. An answer starts with an errno, 0 if the call succeeded.
enum HypervisorCall {
    /// Answer: record, pages, references; descriptors: memory, records.
    case attach(DomainID)
    /// Answer: handle, pages, frames...; descriptors: memory.
    case map([UInt32], of: DomainID, writable: Bool)
    /// Ends a map.
    case unmap(handle: UInt32)
    /// Descriptors of the answer: own events, the peer's events.
    case bind(EventPort, of: DomainID)

    /// The packet's words, behind the calling domain.
    var words: [UInt32] {
        switch self {
        case .attach(let domain): [1, UInt32(domain.rawValue)]
        case .map(let references, let domain, let writable):
            [2, UInt32(domain.rawValue), writable ? 1 : 0] + references
        case .unmap(let handle): [3, handle]
        case .bind(let port, let domain): [4, UInt32(domain.rawValue), port.rawValue]
        }
    }

    /// The call in a packet's words, or nil if there is none.
    init?(_ words: ArraySlice<UInt32>) {
        let words = Array(words)
        guard words.count >= 2 else { return nil }
        let domain = DomainID(UInt16(truncatingIfNeeded: words[1]))
        switch (words[0], words.count) {
        case (1, 2): self = .attach(domain)
        case (2, 4...): self = .map(Array(words.dropFirst(3)), of: domain, writable: words[2] != 0)
        case (3, 2): self = .unmap(handle: words[1])
        case (4, 3): self = .bind(EventPort(words[2]), of: domain)
        default: return nil
        }
    }
}

/// A packet: words, and descriptors that travel beside them.
struct Message {
    /// References in one map call: more than any ring has pages.
    static let maximumReferences = 512
    static let capacity = maximumReferences + 8

    var words: [UInt32]
    var descriptors: [Int32] = []

    /// Sends the packet. The descriptors stay open here.
    func send(to socket: Int32) throws(Fault) {
        let result = unsafe words.withUnsafeBytes { bytes in
            unsafe descriptors.withUnsafeBufferPointer { descriptors in
                // Both buffers are only read during the call.
                unsafe linux_send_message(
                    socket, bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1).unsafelyUnwrapped, bytes.count,
                    descriptors.baseAddress ?? UnsafePointer(bitPattern: 4).unsafelyUnwrapped,
                    Int32(descriptors.count))
            }
        }
        guard result >= 0 else { throw Fault("send to the model hypervisor", errno: Int32(-result)) }
    }

    /// Receives a packet, or nil at the end of the connection. The descriptors belong to the caller.
    static func receive(from socket: Int32) throws(Fault) -> Message? {
        var descriptors = [Int32](repeating: -1, count: Int(LINUX_MESSAGE_DESCRIPTORS))
        var count: Int32 = 0
        var words = [UInt32](repeating: 0, count: capacity)
        // The callee writes no more than the sizes of both buffers.
        let result = unsafe words.withUnsafeMutableBytes { bytes in
            unsafe descriptors.withUnsafeMutableBufferPointer { descriptors in
                guard let to = bytes.baseAddress, let list = descriptors.baseAddress else { return -Int(EINVAL) }
                return unsafe linux_receive_message(socket, to, bytes.count, list, &count)
            }
        }
        guard result >= 0 else { throw Fault("receive from the model hypervisor", errno: Int32(-result)) }
        guard result > 0 else { return nil }
        return Message(words: Array(words.prefix(result / 4)), descriptors: Array(descriptors.prefix(Int(count))))
    }
}
