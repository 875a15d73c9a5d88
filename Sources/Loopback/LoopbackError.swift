public import Descriptors
internal import XenWire
public import Xenbus
public import Xenstore

/// Why something in a loopback world did not succeed.
public enum LoopbackError: Error, CustomStringConvertible {
    /// The host failed.
    case host(Fault)
    /// xenstore failed or refused.
    case xenstore(XenstoreError)
    /// The other end did not reach a state in time.
    case noState(XenbusState, of: XenstorePath, seen: XenbusState, milliseconds: Int)
    /// The backend closed instead of connecting; its `error` node, if it wrote one.
    case backendClosed(XenstorePath, String?)
    /// A node is missing or holds nonsense.
    case badNode(XenstorePath)
    /// The backend broke the block protocol.
    case backend(BackendMisbehaviour)
    /// The backend broke the network protocol.
    case netBackend(NetMisbehaviour)
    /// A frame did not arrive as it was sent.
    case frame(String)
    /// Something was asked for that this disk does not offer.
    case notOffered(String)

    public var description: String {
        switch self {
        case .host(let fault): fault.description
        case .xenstore(let error): error.description
        case .noState(let wanted, let path, let seen, let milliseconds):
            "\(path): \(seen) (\(seen.text)) instead of \(wanted) (\(wanted.text)) after \(milliseconds) ms"
        case .backendClosed(let path, let reason): "\(path): closed by the backend: \(reason ?? "no reason given")"
        case .badNode(let path): "\(path): missing or malformed"
        case .backend(let misbehaviour): misbehaviour.description
        case .netBackend(let misbehaviour): "the backend broke a rule of netfronts: \(misbehaviour)"
        case .frame(let what): what
        case .notOffered(let what): what
        }
    }
}

/// Runs a body whose only errors are xenstore's.
func xenstore<Value>(_ body: () throws(XenstoreError) -> Value) throws(LoopbackError) -> Value {
    do {
        return try body()
    } catch {
        throw .xenstore(error)
    }
}

/// Runs a body whose only errors are the host's.
func host<Value: ~Copyable>(_ body: () throws(Fault) -> Value) throws(LoopbackError) -> Value {
    do {
        return try body()
    } catch {
        throw .host(error)
    }
}
