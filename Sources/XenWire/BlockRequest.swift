public import CXen

/// blkif operations (`BLKIF_OP_*`).
public enum BlockOperation: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    case read = 0
    case write = 1
    case barrier = 2
    case flush = 3
    case discard = 5

    /// Whether it changes what the volume holds; refused on read-only devices (CVE-2013-2140: discard is a write).
    @inlinable public var isWriteClass: Bool {
        @_noLocks get { self == .write || self == .barrier || self == .discard }
    }
}

/// What the device offers and so what a request may ask for.
public struct RequestLimits: Sendable, Equatable {
    /// Advertised `feature-max-indirect-segments`; 0 means that indirect requests are not offered.
    public var indirectSegments: UInt16
    /// `sector-size` / 512 - 1: every position and length in sectors must be zero under this mask.
    public var alignmentMask: UInt8
    /// Writes are refused.
    public var isReadOnly: Bool
    /// `feature-barrier`.
    public var offersBarrier: Bool
    /// `feature-flush-cache`.
    public var offersFlush: Bool
    /// `feature-discard`.
    public var offersDiscard: Bool

    /// All limits; the defaults are those of a plain writable disk.
    public init(
        indirectSegments: UInt16 = 256, alignmentMask: UInt8 = 0, isReadOnly: Bool = false,
        offersBarrier: Bool = false, offersFlush: Bool = true, offersDiscard: Bool = false
    ) {
        self.indirectSegments = indirectSegments
        self.alignmentMask = alignmentMask
        self.isReadOnly = isReadOnly
        self.offersBarrier = offersBarrier
        self.offersFlush = offersFlush
        self.offersDiscard = offersDiscard
    }
}

/// How many segments a request can have.
public enum SegmentLimit {
    /// In a plain request (BLKIF_MAX_SEGMENTS_PER_REQUEST).
    @inlinable public static var direct: UInt16 { @_noLocks get { 11 } }
    /// In one page of an indirect request.
    @inlinable public static var perIndirectPage: UInt16 { @_noLocks get { 512 } }
    /// That the protocol can express: eight indirect pages.
    @inlinable public static var indirect: UInt16 { @_noLocks get { 4096 } }
}

/// The head of a request, decoded from a private copy in the native layout. Its segments are judged apart, because
/// those of an indirect request arrive later.
public struct BlockRequest: Sendable, Equatable {
    /// Opaque to the backend and echoed.
    public var identifier: UInt64
    /// The first sector.
    public var sector: UInt64
    /// Sectors of a discard; for everything else the segments say it.
    public var discardSectors: UInt64
    /// Segments that follow, in the request or in indirect pages.
    public var segmentCount: UInt16
    /// What to do; for an indirect request the inner operation, which its response must carry.
    public var operation: BlockOperation
    /// The segments are in indirect pages.
    public var isIndirect: Bool

    @inlinable @_noLocks
    init(
        identifier: UInt64, sector: UInt64, discardSectors: UInt64, segmentCount: UInt16, operation: BlockOperation,
        isIndirect: Bool
    ) {
        self.identifier = identifier
        self.sector = sector
        self.discardSectors = discardSectors
        self.segmentCount = segmentCount
        self.operation = operation
        self.isIndirect = isIndirect
    }

    /// Decodes and judges the head of a request.
    ///
    /// - Parameter request: 112 private bytes in the native layout (`BlockABI.takeRequest`).
    @inlinable @_noLocks
    public static func decode(
        _ request: UnsafeRawPointer, within limits: RequestLimits
    ) throws(Violation) -> BlockRequest {
        switch unsafe request.load(as: UInt8.self) {
        case 0: unsafe try direct(request, .read, atLeast: 1)
        case 1: unsafe try permit(limits, direct(request, .write, atLeast: 1))
        case 2: unsafe try permit(limits, direct(request, .barrier, atLeast: 0))
        case 3: unsafe try permit(limits, direct(request, .flush, atLeast: 0))
        case 5: unsafe try permit(limits, discard(request))
        case 6: unsafe try permit(limits, indirect(request, limits.indirectSegments))
        default: throw .unknownOperation
        }
    }

    @inlinable @_noLocks
    static func direct(
        _ request: UnsafeRawPointer, _ operation: BlockOperation, atLeast minimum: UInt8
    ) throws(Violation) -> BlockRequest {
        let count = unsafe request.load(fromByteOffset: 1, as: UInt8.self)
        guard count >= minimum, count <= SegmentLimit.direct else { throw .segmentCount }
        return unsafe BlockRequest(
            identifier: request.load(fromByteOffset: 8, as: UInt64.self),
            sector: request.load(fromByteOffset: 16, as: UInt64.self), discardSectors: 0,
            segmentCount: UInt16(count), operation: operation, isIndirect: false)
    }

    @inlinable @_noLocks
    static func discard(_ request: UnsafeRawPointer) -> BlockRequest {
        unsafe BlockRequest(
            identifier: request.load(fromByteOffset: 8, as: UInt64.self),
            sector: request.load(fromByteOffset: 16, as: UInt64.self),
            discardSectors: request.load(fromByteOffset: 24, as: UInt64.self),
            segmentCount: 0, operation: .discard, isIndirect: false)
    }

    @inlinable @_noLocks
    static func indirect(_ request: UnsafeRawPointer, _ maximum: UInt16) throws(Violation) -> BlockRequest {
        guard maximum > 0 else { throw .operationNotOffered }
        let inner = unsafe request.load(fromByteOffset: 1, as: UInt8.self)
        guard inner <= 1 else { throw .indirectOperation }
        let count = unsafe request.load(fromByteOffset: 2, as: UInt16.self)
        guard count >= 1, count <= maximum else { throw .segmentCount }
        return unsafe BlockRequest(
            identifier: request.load(fromByteOffset: 8, as: UInt64.self),
            sector: request.load(fromByteOffset: 16, as: UInt64.self), discardSectors: 0,
            segmentCount: count, operation: inner == 0 ? .read : .write, isIndirect: true)
    }

    /// Refuses what the device does not offer or must not do.
    @inlinable @_noLocks
    static func permit(_ limits: RequestLimits, _ request: BlockRequest) throws(Violation) -> BlockRequest {
        switch request.operation {
        case .barrier: guard limits.offersBarrier else { throw .operationNotOffered }
        case .flush: guard limits.offersFlush else { throw .operationNotOffered }
        case .discard: guard limits.offersDiscard else { throw .operationNotOffered }
        case .read, .write: break
        }
        // A flush may carry data (blkif.h); then it is a write.
        let writes = request.operation.isWriteClass || (request.operation == .flush && request.segmentCount > 0)
        guard !(writes && limits.isReadOnly) else { throw .readOnly }
        return request
    }

    /// The operation to name in a response to a request that could not be decoded: the inner one of an indirect
    /// request (hardened blkfronts compare it), the byte as it is for anything else.
    @inlinable @_noLocks
    public static func echoedOperation(_ request: UnsafeRawPointer) -> UInt8 {
        let operation = unsafe request.load(as: UInt8.self)
        return unsafe operation == 6 ? request.load(fromByteOffset: 1, as: UInt8.self) : operation
    }

    /// The id of any request in the native layout.
    @inlinable @_noLocks
    public static func identifier(_ request: UnsafeRawPointer) -> UInt64 {
        unsafe request.load(fromByteOffset: 8, as: UInt64.self)
    }
}

/// Judging of segments, on a private copy.
public enum SegmentRules {
    /// The sectors that `count` segments cover together, if each is well formed and aligned.
    @inlinable @_noLocks
    public static func totalSectors(
        _ segments: UnsafePointer<blkif_segment_wire>, count: UInt16, alignmentMask: UInt8
    ) throws(Violation) -> UInt32 {
        var total: UInt32 = 0
        var index = 0
        while index < Int(count) {
            let segment = unsafe segments[index]
            guard segment.first_sect <= segment.last_sect else { throw .segmentReversed }
            guard segment.last_sect <= 7 else { throw .segmentBeyondPage }
            let length = segment.last_sect &- segment.first_sect &+ 1
            guard (segment.first_sect | length) & alignmentMask == 0 else { throw .misaligned }
            total &+= UInt32(length)  // at most 4,096 segments of 8 sectors
            index &+= 1
        }
        return total
    }

    /// The sectors that one segment covers, or 0 if it is not well formed; `totalSectors` says why.
    @inlinable @inline(__always) @_noLocks
    public static func soundSectors(_ segment: blkif_segment_wire) -> UInt32 {
        let isSound = segment.first_sect <= segment.last_sect && segment.last_sect <= 7
        return isSound ? UInt32(segment.last_sect &- segment.first_sect) &+ 1 : 0
    }

    /// Whether `count` sectors from `sector` lie within a device of `capacity` sectors and on its alignment.
    @inlinable @_noLocks
    public static func checkExtent(
        sector: UInt64, count: UInt64, capacity: UInt64, alignmentMask: UInt8
    ) throws(Violation) {
        guard (sector | count) & UInt64(alignmentMask) == 0 else { throw .misaligned }
        let (end, overflow) = sector.addingReportingOverflow(count)
        guard !overflow, end <= capacity else { throw .beyondEnd }
    }
}
