import CXen
import XenWire

/// The rules of blkif.h, written a second time: which of them does a request break? Decoding may name any one of the
/// broken rules, and must name one if there is one.
enum Oracle {
    static func broken(_ request: [UInt8], _ limits: RequestLimits) -> Set<Violation> {
        var broken: Set<Violation> = []
        let operation = request[0]
        guard [0, 1, 2, 3, 5, 6].contains(operation) else { return [.unknownOperation] }
        if !isOffered(operation, limits) { broken.insert(.operationNotOffered) }
        if operation == 6, request[1] > 1 { broken.insert(.indirectOperation) }
        if let allowed = segmentCounts(operation, limits), !allowed.contains(segmentCount(request)) {
            broken.insert(.segmentCount)
        }
        if limits.isReadOnly, writes(request) { broken.insert(.readOnly) }
        return broken
    }

    /// The request that must come out when nothing is broken, field by field.
    static func agrees(_ decoded: BlockRequest, with request: [UInt8]) -> Bool {
        let operation = request[0] == 6 ? request[1] : request[0]
        return decoded.operation.rawValue == operation
            && decoded.isIndirect == (request[0] == 6)
            && decoded.identifier == request.number(8, bytes: 8)
            && decoded.sector == request.number(16, bytes: 8)
            && decoded.discardSectors == (operation == 5 ? request.number(24, bytes: 8) : 0)
            && Int(decoded.segmentCount) == (operation == 5 ? 0 : segmentCount(request))
    }

    static func broken(_ segments: [blkif_segment_wire], alignment: UInt8) -> Set<Violation> {
        segments.reduce(into: []) { broken, segment in
            let first = Int(segment.first_sect)
            let last = Int(segment.last_sect)
            if first > last { broken.insert(.segmentReversed) }
            if last > 7 { broken.insert(.segmentBeyondPage) }
            if first % Int(alignment) != 0 || (last + 1) % Int(alignment) != 0 { broken.insert(.misaligned) }
        }
    }

    static func broken(sector: UInt64, count: UInt64, capacity: UInt64, alignment: UInt8) -> Set<Violation> {
        var broken: Set<Violation> = []
        if UInt128(sector) + UInt128(count) > UInt128(capacity) { broken.insert(.beyondEnd) }
        if sector % UInt64(alignment) != 0 || count % UInt64(alignment) != 0 { broken.insert(.misaligned) }
        return broken
    }

    private static func isOffered(_ operation: UInt8, _ limits: RequestLimits) -> Bool {
        switch operation {
        case 2: limits.offersBarrier
        case 3: limits.offersFlush
        case 5: limits.offersDiscard
        case 6: limits.indirectSegments > 0
        default: true
        }
    }

    private static func segmentCounts(_ operation: UInt8, _ limits: RequestLimits) -> ClosedRange<Int>? {
        switch operation {
        case 0, 1: 1...11
        case 2, 3: 0...11
        case 6: limits.indirectSegments > 0 ? 1...Int(limits.indirectSegments) : nil
        default: nil
        }
    }

    private static func segmentCount(_ request: [UInt8]) -> Int {
        request[0] == 6 ? Int(request.number(2, bytes: 2)) : Int(request[1])
    }

    private static func writes(_ request: [UInt8]) -> Bool {
        switch request[0] {
        case 1, 2, 5: true
        case 3: request[1] > 0
        case 6: request[1] == 1
        default: false
        }
    }
}
