public import CXen

/// Which of blkif's request layouts a frontend uses; the in-memory order of `protocols.h`.
public enum BlockABI: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// `x86_64-abi`, `arm-abi`: 64-bit integers are aligned to eight bytes.
    case native
    /// `x86_32-abi`: 64-bit integers are aligned to four bytes.
    // swift-format-ignore: AlwaysUseLowerCamelCase
    case x86_32

    /// Bytes of a ring entry, the larger of request and response.
    @inlinable public var entrySize: Int { @_noLocks get { self == .native ? 112 : 108 } }

    /// Entries in a ring of `pages` pages: the largest power of two that fits behind the 64-byte header (ring.h,
    /// __RING_SIZE).
    public func entries(pages: Int) -> UInt32 {
        let fitting = (pages * Int(XEN_PAGE_SIZE_BYTES) - Int(XEN_RING_ENTRIES)) / entrySize
        return fitting < 1 ? 0 : UInt32(1) << UInt32(Int.bitWidth - 1 - fitting.leadingZeroBitCount)
    }
}

/// `BLKIF_RSP_*`.
public enum BlockStatus: Int16, Sendable, BitwiseCopyable {
    /// Done.
    case okay = 0
    /// Failed; Linux reports EIO for it.
    case error = -1
    /// The operation is not available here.
    case unsupported = -2
}

extension BlockABI {
    /// Copies a request out of a ring slot, once, and brings it into the native layout, so that nothing behind this
    /// line knows of two ABIs.
    ///
    /// - Parameters:
    ///   - slot: a ring entry of this ABI in memory shared with the guest.
    ///   - request: 112 private bytes.
    @inlinable @_noLocks
    public func takeRequest(from slot: UnsafeRawPointer, into request: UnsafeMutableRawPointer) {
        if self == .native {
            unsafe xen_copy_out_112(request, slot)
        } else {
            unsafe Self.widen(slot, into: request)
        }
    }

    /// The first half of `takeRequest`: at least the head and the first segment. `takeRest` copies what is left; no byte
    /// of the slot is read twice.
    @inlinable @inline(__always)
    public func takeHead(from slot: UnsafeRawPointer, into request: UnsafeMutableRawPointer) {
        if self == .native {
            unsafe xen_copy_out_32(request, slot)
        } else {
            unsafe Self.widen(slot, into: request)
        }
    }

    /// The second half of `takeRequest`.
    @inlinable @inline(__always)
    public func takeRest(from slot: UnsafeRawPointer, into request: UnsafeMutableRawPointer) {
        if self == .native { unsafe xen_copy_out_80(request + 32, slot + 32) }
    }

    /// The x86_32 form of all three request kinds: the first four bytes are common, everything else sits four bytes
    /// lower than in the native form, the indirect `handle` and references included.
    @inlinable @_noLocks
    static func widen(_ slot: UnsafeRawPointer, into request: UnsafeMutableRawPointer) {
        // 108 bytes: 4 of header, then 104 that move up by four; `request` has 112, so the move stays inside.
        unsafe xen_copy_out_108(request + 4, slot)
        unsafe request.storeBytes(of: (request + 4).loadUnaligned(as: UInt32.self), as: UInt32.self)
        unsafe (request + 4).storeBytes(of: 0, as: UInt32.self)
    }

    /// Writes a response into a ring slot, field by field, with zero in the padding (XSA-216).
    @inlinable @_noLocks
    public func putResponse(
        into slot: UnsafeMutableRawPointer, identifier: UInt64, operation: UInt8, status: BlockStatus
    ) {
        // The id is at offset 0 in both; an x86_32 entry is only four-byte aligned, hence unaligned stores.
        unsafe slot.storeBytes(of: identifier, as: UInt64.self)
        let tail = UInt32(operation) | UInt32(UInt16(bitPattern: status.rawValue)) << 16
        unsafe (slot + 8).storeBytes(of: tail, as: UInt32.self)
        if self == .native { unsafe (slot + 12).storeBytes(of: 0, as: UInt32.self) }
    }

    /// Writes a request, given in the native layout, into a ring slot of this ABI: the frontend's side.
    @inlinable @_noLocks
    public func putRequest(_ request: UnsafeRawPointer, into slot: UnsafeMutableRawPointer) {
        if self == .native {
            unsafe xen_copy_bytes(slot, request, 112)
        } else {
            unsafe slot.storeBytes(of: request.loadUnaligned(as: UInt32.self), as: UInt32.self)
            unsafe xen_copy_bytes(slot + 4, request + 8, 104)
        }
    }
}
