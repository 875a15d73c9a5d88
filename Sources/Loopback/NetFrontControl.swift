public import CXen
public import Descriptors
internal import SharedRing
public import XenWire

/// A frontend's control ring: the loopback counterpart of a netfront that steers what it receives.
public final class NetFrontControl {
    private let domain: GuestDomain
    private let pages: GrantedFrames
    private var ring: FrontRing
    public let port: GuestPort
    private var inFlight: [(id: UInt16, type: UInt16)] = []
    private var nextIdentifier: UInt16

    private static let ringPage: UInt32 = 0
    private static let dataPage: UInt32 = 1

    /// - Parameter index: where the ring's indices start.
    public init(_ domain: GuestDomain, backend: DomainID, startingAt index: UInt32 = 0) throws(Fault) {
        self.domain = domain
        let pages = try GrantedFrames(2, in: domain)
        // The pages are the domain's memory, which outlives the ring.
        unsafe ring = FrontRing(
            initialising: pages.base, entries: NetRing.controlSlots, entrySize: NetRing.controlSlot, startingAt: index)
        port = try domain.openPort(for: backend)
        nextIdentifier = UInt16(truncatingIfNeeded: index)
        for page in [Self.ringPage, Self.dataPage] {
            domain.grants.grant(
                pages.firstReference + page, frame: pages.firstFrame + page, to: backend,
                readOnly: page == Self.dataPage)
        }
        self.pages = pages
    }

    /// What is written to xenstore, and the page of which requests may speak.
    public var reference: GrantReference { GrantReference(pages.firstReference + Self.ringPage) }
    public var data: GrantReference { GrantReference(pages.firstReference + Self.dataPage) }

    /// Puts bytes at the beginning of the data page.
    public func fill(_ bytes: [UInt8]) {
        // A page of the domain's memory.
        let page = unsafe pages.base + Int(Self.dataPage) * Int(XEN_PAGE_SIZE_BYTES)
        for (index, byte) in bytes.prefix(Int(XEN_PAGE_SIZE_BYTES)).enumerated() {
            unsafe page.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
        }
    }

    /// Puts a request on the ring, whatever it is; false if the ring is full.
    @discardableResult
    public func put(_ type: UInt16, _ first: UInt32 = 0, _ second: UInt32 = 0, _ third: UInt32 = 0) -> Bool {
        guard ring.free > 0 else { return false }
        let request = netif_ctrl_request_wire(id: nextIdentifier, type: type, data: (first, second, third))
        // Sixteen bytes of a slot of sixteen.
        unsafe ring.requestSlot().copyMemory(from: [request], byteCount: NetRing.controlSlot)
        inFlight.append((nextIdentifier, type))
        nextIdentifier &+= 1
        return true
    }

    /// Makes requests visible and sends the event that the backend asked for.
    public func publish() {
        if ring.publish() { port.channel.notify() }
    }

    /// Claims to have put up to a number of requests, for hostile tests.
    public func claim(_ index: UInt32) {
        // The first word of the ring's page.
        unsafe xen_store_release(pages.base, index)
    }

    /// Takes the responses that there are: one for each request, in any order.
    public func reap() throws(NetMisbehaviour) -> [netif_ctrl_response_wire] {
        guard let waiting = ring.waiting() else { throw .responseOverrun }
        var responses: [netif_ctrl_response_wire] = []
        for _ in 0..<waiting {
            // Twelve bytes of a slot of sixteen.
            let response = unsafe ring.takeSlot().load(as: netif_ctrl_response_wire.self)
            guard let index = inFlight.firstIndex(where: { $0 == (response.id, response.type) }) else {
                throw .unknownIdentifier(response.id)
            }
            inFlight.remove(at: index)
            responses.append(response)
        }
        return responses
    }

    /// Asks for an event at the next response: true if the frontend may wait for it.
    public func arm() -> Bool { ring.arm() }
}
