internal import CLinux
public import Descriptors
public import SharedRing
public import XenWire

/// The model hypervisor as a daemon in its own process sees it.
public final class LoopbackPlatform: RingPlatform {
    /// The socket's name in a loopback world's directory.
    public static let socketName = "hypervisor.socket"

    private let path: String
    private let domain: DomainID

    /// - Parameters:
    ///   - directory: the loopback world's directory.
    ///   - domain: the domain that this process belongs to.
    public init(directory: String, domain: DomainID) throws(Fault) {
        path = "\(directory)/\(Self.socketName)"
        self.domain = domain
        _ = try HypervisorConnection(path, domain: domain)
    }

    public func openGrantTable() throws(Fault) -> any GrantTable {
        try ModelGrantTable(HypervisorConnection(path, domain: domain))
    }

    public func bindEventChannel(to port: EventPort, of domain: DomainID) throws(Fault) -> any EventChannel {
        try HypervisorConnection(path, domain: self.domain).bind(port, of: domain)
    }
}

/// A connection to the model hypervisor; what was done over it ends with it.
final class HypervisorConnection: GrantAuthority, Sendable {
    let domain: DomainID
    private let socket: OwnedDescriptor

    init(_ path: String, domain: DomainID) throws(Fault) {
        self.domain = domain
        // The path is only read.
        socket = unsafe try OwnedDescriptor(linux_connect_seqpacket(path), "connect \(path)")
    }

    func attach(_ domain: DomainID) throws(Fault) -> (memory: DomainMemory, record: Int) {
        var answer = try call(.attach(domain), "attach domain \(domain)")
        let memory = try answer.takeDescriptor()
        let records = try answer.takeDescriptor()
        let record = try answer.word()
        let size = try DomainMemory.Size(pages: answer.word(), references: answer.word())
        return try (
            DomainMemory(
                size, SharedMemory(mapping: memory, bytes: size.bytes),
                SharedMemory(mapping: records, bytes: CopyRecords.bytes)),
            Int(record)
        )
    }

    func map(
        _ references: [UInt32], of domain: DomainID, writable: Bool
    ) throws(Fault) -> (handle: UInt32, frames: [UInt32], memory: SharedMemory) {
        let list = references.map { "\($0)" }.joined(separator: ", ")
        var answer = try call(
            .map(references, of: domain, writable: writable), "map grants \(list) of domain \(domain)")
        let memory = try answer.takeDescriptor()
        let handle = try answer.word()
        let pages = try answer.word()
        var frames: [UInt32] = []
        for _ in references { frames.append(try answer.word()) }
        return try (handle, frames, SharedMemory(mapping: memory, bytes: Int(pages) * 4096))
    }

    func unmap(_ handle: UInt32) {
        // An error means that the hypervisor is gone, and the mapping with it.
        _ = try? call(.unmap(handle: handle), "unmap")
    }

    /// Binds the connection's one port.
    func bind(_ port: EventPort, of domain: DomainID) throws(Fault) -> DescriptorChannel {
        var answer = try call(.bind(port, of: domain), "bind to event channel \(port) of domain \(domain)")
        return try DescriptorChannel(
            own: EventDescriptor(owning: answer.takeDescriptor()),
            peer: EventDescriptor(owning: answer.takeDescriptor()), lease: self)
    }

    private func call(_ call: HypervisorCall, _ operation: String) throws(Fault) -> Answer {
        try Message(words: [UInt32(domain.rawValue)] + call.words).send(to: socket.number)
        guard let message = try Message.receive(from: socket.number) else { throw Fault(operation, errno: ECONNRESET) }
        var answer = Answer(message, operation)
        let code = try answer.word()
        guard code == 0 else { throw Fault(operation, errno: Int32(bitPattern: code)) }
        return answer
    }
}

/// An answer that is taken apart from the front; closes the descriptors that nobody took.
private struct Answer: ~Copyable {
    private var words: ArraySlice<UInt32>
    private var descriptors: ArraySlice<Int32>
    private let operation: String

    init(_ message: Message, _ operation: String) {
        words = message.words[...]
        descriptors = message.descriptors[...]
        self.operation = operation
    }

    mutating func word() throws(Fault) -> UInt32 {
        guard let word = words.popFirst() else { throw Fault(operation, errno: EPROTO) }
        return word
    }

    mutating func takeDescriptor() throws(Fault) -> OwnedDescriptor {
        guard let number = descriptors.popFirst() else { throw Fault(operation, errno: EPROTO) }
        return OwnedDescriptor(owning: number)
    }

    deinit {
        for number in descriptors { close(number) }
    }
}
