internal import CLinux
internal import Descriptors
internal import XenWire

/// One process' connection to the model hypervisor: a grant table handle or a bound port.
final class ClientSession: ServerSession {
    private let server: HypervisorServer
    private let socket: OwnedDescriptor
    private var records: [(memory: DomainMemory, record: Int)] = []
    private var handles: Set<UInt32> = []
    private var ports: [EventChannelTable.Address] = []

    init(_ server: HypervisorServer, _ socket: consuming OwnedDescriptor) {
        self.server = server
        self.socket = socket
    }

    var descriptor: Int32 { socket.number }

    func serve() -> Bool {
        do throws(Fault) {
            guard let message = try Message.receive(from: socket.number) else { return false }
            try answer(message).send(to: socket.number)
            return true
        } catch {
            return false
        }
    }

    /// What Xen does when a process closes its descriptors, whether it wanted to or was killed.
    func end() {
        server.withState { state in
            for handle in handles { state.unmap(handle) }
            for port in ports { state.close(port) }
        }
        for (memory, record) in records { memory.records.release(record) }
    }

    private func answer(_ message: Message) -> Message {
        do throws(Fault) {
            guard let caller = message.words.first, let call = HypervisorCall(message.words.dropFirst()) else {
                throw Fault("call of the model hypervisor", errno: EINVAL)
            }
            return try perform(call, for: DomainID(UInt16(truncatingIfNeeded: caller)))
        } catch {
            return Message(words: [UInt32(bitPattern: error.code)])
        }
    }

    private func perform(_ call: HypervisorCall, for caller: DomainID) throws(Fault) -> Message {
        switch call {
        case .attach(let domain): return try attach(domain)
        case .map(let references, let domain, let writable):
            return try map(references, of: domain, for: caller, writable: writable)
        case .unmap(let handle): return unmap(handle)
        case .bind(let port, let domain): return try bind(caller, port, of: domain)
        }
    }

    private func attach(_ domain: DomainID) throws(Fault) -> Message {
        let (memory, record) = try server.withState { state throws(Fault) in try state.attach(domain) }
        records.append((memory, record))
        return Message(
            words: [0, UInt32(record), memory.size.pages, memory.size.references],
            descriptors: [memory.memory.descriptor, memory.area.descriptor])
    }

    private func map(
        _ references: [UInt32], of domain: DomainID, for caller: DomainID, writable: Bool
    ) throws(Fault) -> Message {
        let (handle, frames, memory) = try server.withState { state throws(Fault) in
            try state.map(references, of: domain, for: caller, writable: writable)
        }
        handles.insert(handle)
        return Message(words: [0, handle, memory.size.pages] + frames, descriptors: [memory.memory.descriptor])
    }

    private func unmap(_ handle: UInt32) -> Message {
        if handles.remove(handle) != nil { server.withState { $0.unmap(handle) } }
        return Message(words: [0])
    }

    private func bind(_ caller: DomainID, _ port: EventPort, of domain: DomainID) throws(Fault) -> Message {
        let (address, ends) = try server.withState { state throws(Fault) in
            try state.bind(in: caller, to: .init(domain: domain, port: port))
        }
        ports.append(address)
        return Message(words: [0], descriptors: [ends.own.number, ends.peer.number])
    }
}
