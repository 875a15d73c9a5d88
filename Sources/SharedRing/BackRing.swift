public import CXen

/// A backend's end of a shared ring (ring.h, BACK_RING_*). It knows indices and slots, not what is in them.
///
/// The shared page is the guest's to scribble on: `req_prod` is read once per look, `rsp_prod` never (a private copy
/// counts), and all arithmetic wraps.
@safe public struct BackRing: ~Copyable {
    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline let entrySize: Int
    @usableFromInline let mask: UInt32
    /// `req_cons`: the next request to take.
    @inlinable public var consumed: UInt32 { @_noLocks get { consumer } }
    /// `rsp_prod_pvt`: the next response to write.
    @inlinable public var produced: UInt32 { @_noLocks get { producer } }
    @usableFromInline var consumer: UInt32
    @usableFromInline var producer: UInt32
    @usableFromInline var published: UInt32

    /// Takes over a mapped ring.
    ///
    /// - Parameters:
    ///   - base: the first byte of the mapped ring pages; the caller keeps the mapping for the ring's life.
    ///   - entries: a power of two that fits in the mapping (`BlockABI.entries`).
    ///   - entrySize: bytes of a slot.
    ///   - index: where both private indices start: 0 for a fresh ring.
    ///   - consumed: `req_cons`, if requests are open.
    public init(
        base: UnsafeMutableRawPointer, entries: UInt32, entrySize: Int, startingAt index: UInt32 = 0,
        consumed: UInt32? = nil
    ) {
        unsafe self.base = base
        self.entrySize = entrySize
        mask = entries &- 1
        consumer = consumed ?? index
        producer = index
        published = index
    }

    /// Slots in the ring.
    @inlinable public var size: UInt32 { @_noLocks get { mask &+ 1 } }

    /// Requests waiting, or nil if the guest claims more than the ring can hold (RING_REQUEST_PROD_OVERFLOW) or takes
    /// back what was taken already, which the macro lets pass; after either nothing on the ring can be trusted.
    @inlinable @_noLocks public func waiting() -> UInt32? {
        let claimed = unsafe xen_load_acquire(base + Int(XEN_RING_REQ_PROD))
        let count = claimed &- consumer
        // An index that moved back is a huge count; slots of open requests are not free for new ones.
        return count > size &- (consumer &- producer) ? nil : count
    }

    /// Nothing waits, as far as the guest says now.
    @inlinable public var isEmpty: Bool { @_noLocks get { requestProducer() == consumer } }

    /// `req_prod` as it is now, for watching whether the guest makes progress; not checked.
    @inlinable @_noLocks public func requestProducer() -> UInt32 {
        unsafe xen_load_relaxed(base + Int(XEN_RING_REQ_PROD))
    }

    /// Takes the next request's slot: shared memory, to be copied out once. Valid until a response is put.
    @inlinable @_noLocks public mutating func takeSlot() -> UnsafeRawPointer {
        let slot = unsafe slot(consumer)
        consumer &+= 1
        return UnsafeRawPointer(slot)
    }

    /// Moves past requests that were copied from their slots.
    @inlinable @_noLocks public mutating func consume(_ requests: UInt32) { consumer &+= requests }

    /// The slot of the next response. Responses are written in order of completion.
    @inlinable @_noLocks public mutating func responseSlot() -> UnsafeMutableRawPointer {
        let slot = unsafe slot(producer)
        producer &+= 1
        return unsafe slot
    }

    /// Moves past responses that were written to their slots.
    @inlinable @_noLocks public mutating func produce(_ responses: UInt32) { producer &+= responses }

    /// The slot of an index: of a response that was written and is not yet published.
    @inlinable @_noLocks public func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        // Masked: always inside the mapping, whatever the index.
        unsafe base + Int(XEN_RING_ENTRIES) + Int(index & mask) &* entrySize
    }

    /// Responses written since the last publication.
    @inlinable public var unpublished: UInt32 { @_noLocks get { producer &- published } }

    /// Makes all written responses visible and tells whether the frontend asked for an event at one of them
    /// (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY).
    @inlinable @_noLocks public mutating func publish() -> Bool {
        let old = published
        guard producer != old else { return false }
        unsafe xen_store_release(base + Int(XEN_RING_RSP_PROD), producer)
        published = producer
        // The store of rsp_prod must be visible before rsp_event is read, or both sides sleep.
        xen_full_fence()
        let event = unsafe xen_load_relaxed(base + Int(XEN_RING_RSP_EVENT))
        return producer &- event < producer &- old
    }

    /// Asks for an event when `req_prod` moves on from what was seen, though requests may be waiting: too few of them. True
    /// if it has not moved.
    @inlinable @_noLocks public func arm(beyond seen: UInt32) -> Bool {
        unsafe xen_store_relaxed(base + Int(XEN_RING_REQ_EVENT), seen &+ 1)
        xen_full_fence()
        return requestProducer() == seen
    }

    /// Asks for an event at the next request and looks once more (RING_FINAL_CHECK_FOR_REQUESTS): true if the backend
    /// may sleep.
    @inlinable @_noLocks public func arm() -> Bool {
        unsafe xen_store_relaxed(base + Int(XEN_RING_REQ_EVENT), consumer &+ 1)
        xen_full_fence()
        return unsafe xen_load_acquire(base + Int(XEN_RING_REQ_PROD)) == consumer
    }
}
