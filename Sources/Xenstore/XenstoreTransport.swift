public import Descriptors

/// A stream of bytes to a xenstore server: its unix socket, `/dev/xen/xenbus`, or a model in the same process.
///
/// Used from its client's thread only. No call but `wait` waits.
public protocol XenstoreTransport: AnyObject {
    /// For poll(2) in the owner's loop.
    var descriptor: Int32 { get }
    /// The largest payload that the way there can carry: 4096 on the socket, 16 less on /dev/xen/xenbus.
    var maximumPayload: Int { get }
    /// Requests that may be on their way at once; at least 1.
    var requestsInFlight: Int { get }
    /// What has arrived, at most `count` bytes; nil if that is nothing, empty at the end of the stream.
    func read(atMost count: Int) throws(Fault) -> [UInt8]?
    /// Sends a prefix of `bytes` and returns its length; 0 if there is no room now.
    func write(_ bytes: ArraySlice<UInt8>) throws(Fault) -> Int
    /// Waits until there is something to read or, if `writing`, room to write; false when the time is over.
    func wait(writing: Bool, milliseconds: Int32) throws(Fault) -> Bool
}

extension XenstoreTransport {
    /// C xenstored lets an unprivileged domain have 20.
    public var requestsInFlight: Int { 16 }
}
