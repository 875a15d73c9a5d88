public import CXen

/// A frontend's end of a shared ring (ring.h, FRONT_RING_*): used by the loopback frontends and the tests.
@safe public struct FrontRing: ~Copyable {
    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline let entrySize: Int
    @usableFromInline let mask: UInt32
    /// `req_prod_pvt`: the next request to write.
    @inlinable public var produced: UInt32 { @_noLocks get { producer } }
    /// `rsp_cons`: the next response to take.
    @inlinable public var consumed: UInt32 { @_noLocks get { consumer } }
    @usableFromInline var consumer: UInt32
    @usableFromInline var producer: UInt32
    @usableFromInline var published: UInt32

    /// Initialises the shared page (SHARED_RING_INIT) and takes over the frontend's end.
    ///
    /// - Parameters as for `BackRing`; `index` other than 0 lets tests start near the wrap.
    public init(
        initialising base: UnsafeMutableRawPointer, entries: UInt32, entrySize: Int, startingAt index: UInt32 = 0
    ) {
        unsafe self.base = base
        self.entrySize = entrySize
        mask = entries &- 1
        producer = index
        consumer = index
        published = index
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Int(XEN_RING_ENTRIES))
        unsafe xen_store_relaxed(base + Int(XEN_RING_REQ_PROD), index)
        unsafe xen_store_relaxed(base + Int(XEN_RING_RSP_PROD), index)
        unsafe xen_store_relaxed(base + Int(XEN_RING_REQ_EVENT), index &+ 1)
        unsafe xen_store_release(base + Int(XEN_RING_RSP_EVENT), index &+ 1)
    }

    /// Slots in the ring.
    @inlinable public var size: UInt32 { @_noLocks get { mask &+ 1 } }

    /// Requests that may still be put (RING_FREE_REQUESTS).
    @inlinable public var free: UInt32 { @_noLocks get { size &- (producer &- consumer) } }

    /// The slot of the next request; only while `free` is not zero.
    @inlinable @_noLocks public mutating func requestSlot() -> UnsafeMutableRawPointer {
        let slot = unsafe slot(producer)
        producer &+= 1
        return unsafe slot
    }

    /// Makes the requests visible and tells whether the backend asked for an event.
    @inlinable @_noLocks public mutating func publish() -> Bool {
        let old = published
        guard producer != old else { return false }
        unsafe xen_store_release(base + Int(XEN_RING_REQ_PROD), producer)
        published = producer
        xen_full_fence()
        let event = unsafe xen_load_relaxed(base + Int(XEN_RING_REQ_EVENT))
        return producer &- event < producer &- old
    }

    /// Responses waiting, or nil if the backend claims more than were asked for (RING_RESPONSE_PROD_OVERFLOW).
    @inlinable @_noLocks public func waiting() -> UInt32? {
        let claimed = unsafe xen_load_acquire(base + Int(XEN_RING_RSP_PROD))
        let count = claimed &- consumer
        return count > published &- consumer ? nil : count
    }

    /// Takes the next response's slot.
    @inlinable @_noLocks public mutating func takeSlot() -> UnsafeRawPointer {
        let slot = unsafe slot(consumer)
        consumer &+= 1
        return UnsafeRawPointer(slot)
    }

    /// Asks for an event at the next response and looks once more: true if the frontend may sleep.
    @inlinable @_noLocks public func arm() -> Bool {
        unsafe xen_store_relaxed(base + Int(XEN_RING_RSP_EVENT), consumer &+ 1)
        xen_full_fence()
        return unsafe xen_load_acquire(base + Int(XEN_RING_RSP_PROD)) == consumer
    }

    @inlinable @_noLocks func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe base + Int(XEN_RING_ENTRIES) + Int(index & mask) &* entrySize
    }
}
