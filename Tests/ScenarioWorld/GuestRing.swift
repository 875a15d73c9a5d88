package import Descriptors
package import Loopback
import SharedRing
package import XenWire

/// A frontend's ring and event channel in a model guest.
@safe package final class GuestRing {
    package let references: [GrantReference]
    package let port: GuestPort
    package let abi: BlockABI
    package let size: UInt32
    private let base: UnsafeMutableRawPointer
    private var ring: FrontRing
    private var hasArrived = false

    package init(_ domain: GuestDomain, abi: BlockABI, pages: Int, startingAt index: UInt32) throws(Fault) {
        let backend = DomainID(0)
        let frame = try domain.allocateFrames(UInt32(pages))
        let first = try domain.allocateReferences(UInt32(pages))
        for page in 0..<UInt32(pages) {
            domain.grants.grant(first + page, frame: frame + page, to: backend, readOnly: false)
        }
        references = (0..<UInt32(pages)).map { GrantReference(first + $0) }
        port = try domain.openPort(for: backend)
        self.abi = abi
        size = abi.entries(pages: pages)
        guard let memory = unsafe domain.memory(ofFrame: frame) else { throw Fault("ring memory", errno: 12) }
        // The frames follow each other and live as long as the domain.
        unsafe base = memory
        ring = unsafe FrontRing(
            initialising: memory, entries: size, entrySize: abi.entrySize, startingAt: index)
    }

    package var free: UInt32 { ring.free }
    package var produced: UInt32 { ring.produced }

    package func put(_ request: RawRequest) { unsafe request.put(into: ring.requestSlot(), abi) }

    /// Shows what was put, with an event if the backend wants one.
    package func publish() {
        if ring.publish() { port.channel.notify() }
    }

    /// Whether an event has arrived since `serve`.
    package var hasEvent: Bool {
        if !hasArrived { hasArrived = port.channel.drain() }
        return hasArrived
    }

    /// Takes all responses and goes to sleep; false if the backend's index makes no sense.
    package func serve(_ body: (RawResponse) -> Void) -> Bool {
        if hasArrived {
            hasArrived = false
            port.channel.unmask()
        }
        repeat {
            guard let waiting = ring.waiting() else { return false }
            for _ in 0..<waiting {
                // A slot below the checked producer index.
                unsafe body(RawResponse(ring.takeSlot()))
            }
        } while !ring.arm()
        return true
    }

    /// The ring's pages: for a harness that puts back what was in them.
    package var memory: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: references.count * 4096)
    }

    /// Sends an event, wanted or not.
    package func kick() { port.channel.notify() }

    /// Overwrites one word of the shared pages: what only a hostile guest does.
    package func scribble(_ value: UInt32, at offset: Int) {
        precondition(offset >= 0 && offset + 4 <= references.count * 4096)
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: UInt32.self)
    }
}
