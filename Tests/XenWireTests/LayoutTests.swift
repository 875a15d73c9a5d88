import CXenReference
import Testing
import XenWire

/// The same logical request, as a frontend of each ABI writes it.
struct LogicalRequest: Sendable, CustomTestStringConvertible {
    enum Kind: Sendable { case direct, discard, indirect }
    var kind = Kind.direct
    var operation: UInt8 = 0
    /// nr_segments, the discard flag, or the inner operation.
    var second: UInt8 = 1
    /// nr_segments of an indirect request.
    var segments: UInt16 = 1
    var handle: UInt16 = 0x1234
    var id: UInt64 = 0x1122_3344_5566_7788
    var sector: UInt64 = 0x99aa_bbcc_ddee_ff00
    /// nr_sectors of a discard.
    var sectors: UInt64 = 0x0102_0304_0506_0708
    var testDescription: String { "\(kind) \(self)" }

    static let references: [UInt32] = (0..<8).map { 0x1000_0000 &* $0 &+ 0xfedc &+ $0 }
    static let rawSegments: [UInt64] = (0..<11).map { 0x0102_0304_0506_0708 &* ($0 &+ 1) }

    /// A ring slot with this request in it, written by the C compiler's own layout.
    func slot(_ abi: BlockABI) -> Bytes {
        let writers = abi.reference
        return unsafe abi.slot(filledWith: 0) { slot in
            switch kind {
            case .direct:
                unsafe writers.write_request(slot, operation, second, handle, id, sector, Self.rawSegments)
            case .discard: unsafe writers.write_discard(slot, operation, second, handle, id, sector, sectors)
            case .indirect:
                unsafe writers.write_indirect(
                    slot, operation, second, segments, handle, id, sector, Self.references)
            }
        }
    }

    /// Every field of every kind at its edges, the others at values whose bytes all differ.
    static let edges: [LogicalRequest] = {
        let kinds = [
            LogicalRequest(kind: .direct, operation: 1, second: 11),
            LogicalRequest(kind: .discard, operation: 5, second: 0),
            LogicalRequest(kind: .indirect, operation: 6, second: 1, segments: 256),
        ]
        return kinds.flatMap { base in
            var all = [base]
            func vary<Value>(_ field: WritableKeyPath<LogicalRequest, Value>, _ values: [Value]) {
                for value in values {
                    var request = base
                    request[keyPath: field] = value
                    all.append(request)
                }
            }
            vary(\.operation, Array(UInt8.min ... .max))
            vary(\.second, Array(UInt8.min ... .max))
            vary(\.segments, [0, 1, 255, 256, 257, 4095, 4096, 4097, 65534, 65535])
            vary(\.handle, [0, 1, 0xfffe, 0xffff])
            vary(\.id, [0, 1, 0xffff_ffff, 1 << 32, .max - 1, .max])
            vary(\.sector, [0, 1, 0xffff_ffff, 1 << 32, .max - 1, .max])
            vary(\.sectors, [0, 1, 0xffff_ffff, 1 << 32, .max - 1, .max])
            return all
        }
    }()
}

@Suite struct LayoutTests {
    static let generous = RequestLimits(
        indirectSegments: 256, offersBarrier: true, offersFlush: true, offersDiscard: true)

    @Test func bothLayoutsDecodeAlike() {
        for request in LogicalRequest.edges {
            let native = BlockABI.native.take(request.slot(.native))
            let narrow = BlockABI.x86_32.take(request.slot(.x86_32))
            #expect(native == narrow, "\(request)")
            let broken = Oracle.broken(native, Self.generous)
            switch decode(narrow, Self.generous) {
            case .success(let decoded):
                #expect(broken.isEmpty && agrees(decoded, request), "\(request) -> \(decoded)")
            case .failure(let violation): #expect(broken.contains(violation), "\(request) -> \(violation)")
            }
        }
    }

    /// Against the values that went into the C structure, not against bytes.
    private func agrees(_ decoded: BlockRequest, _ request: LogicalRequest) -> Bool {
        guard decoded.identifier == request.id, decoded.sector == request.sector else { return false }
        // An operation byte of another kind is decoded as that kind.
        return switch (request.kind, request.operation) {
        case (.discard, 5): decoded.operation == .discard && decoded.discardSectors == request.sectors
        case (.indirect, 6):
            decoded.isIndirect && decoded.segmentCount == request.segments
                && decoded.operation.rawValue == request.second
        default: true
        }
    }

    /// The two halves are the whole, and what the first has copied is never read again.
    @Test(arguments: BlockABI.allCases) func halvesAreTheWhole(abi: BlockABI) {
        for request in LogicalRequest.edges {
            let slot = request.slot(abi)
            #expect(abi.takeInHalves(slot) == abi.take(slot), "\(request)")
        }
    }

    /// nr_sectors of an x86_32 discard lies at 20, not at the native 24.
    @Test func discardLengthIsFoundInBothLayouts() {
        for sectors: UInt64 in [0, 1, 0x0123_4567_89ab_cdef, .max] {
            let request = LogicalRequest(kind: .discard, operation: 5, second: 0, sectors: sectors)
            for abi in BlockABI.allCases {
                let decoded = decode(abi.take(request.slot(abi)), Self.generous)
                #expect((try? decoded.get())?.discardSectors == sectors, "\(abi)")
            }
        }
    }

    @Test func segmentsAndIndirectReferencesLieWhereTheNativeLayoutHasThem() {
        for abi in BlockABI.allCases {
            let direct = abi.take(LogicalRequest(operation: 1, second: 11).slot(abi))
            for (index, raw) in LogicalRequest.rawSegments.enumerated() {
                #expect(direct.number(24 + 8 * index, bytes: 8) == raw, "\(abi), segment \(index)")
            }
            let indirect = abi.take(LogicalRequest(kind: .indirect, operation: 6).slot(abi))
            for (index, reference) in LogicalRequest.references.enumerated() {
                #expect(indirect.number(28 + 4 * index, bytes: 4) == UInt64(reference), "\(abi), page \(index)")
            }
        }
    }

    /// The frontend's side writes what the C structures have, and nothing beyond the slot's end.
    @Test func requestsArePutAsTheFrontendsOwnLayoutHasThem() {
        for request in LogicalRequest.edges {
            let native = request.slot(.native)
            for abi in BlockABI.allCases {
                #expect(abi.put(native) == request.slot(abi), "\(abi), \(request)")
            }
        }
    }

    @Test(arguments: BlockABI.allCases, [BlockStatus.okay, .error, .unsupported])
    func responsesAreExactToTheByte(abi: BlockABI, status: BlockStatus) {
        let bytes = Int(abi.reference.response_bytes)
        for operation in UInt8.min ... .max {
            for id: UInt64 in [0, 1, 0x1122_3344_5566_7788, .max - 1, .max] {
                let ours = abi.response(id, operation, status)
                let theirs = abi.referenceResponse(id, operation, status)
                // Padding is zero (XSA-216), and what lies behind the response is not touched.
                #expect(ours.prefix(bytes) == theirs.prefix(bytes), "id \(id), operation \(operation)")
                #expect(ours.dropFirst(bytes).allSatisfy { $0 == 0xaa }, "id \(id), operation \(operation)")
            }
        }
    }

    /// blkfront compares the operation of a response with the inner one of an indirect request.
    @Test func echoedOperationOfAnIndirectRequestIsTheInnerOne() {
        for operation in UInt8.min ... .max {
            for inner: UInt8 in [0, 1, 2, 6, 254, 255] {
                let request = LogicalRequest(kind: .indirect, operation: operation, second: inner)
                let bytes = BlockABI.x86_32.take(request.slot(.x86_32))
                #expect(echoedOperation(bytes) == (operation == 6 ? inner : operation))
            }
        }
    }

    @Test(arguments: BlockABI.allCases) func identifierIsFoundInAnyRequest(abi: BlockABI) {
        for request in LogicalRequest.edges {
            #expect(identifier(abi.take(request.slot(abi))) == request.id, "\(request)")
        }
    }
}
