import CXen
import Testing
import XenWire

@Suite struct ViolationTests {
    /// A request or a segment that provokes each violation which XenWire itself finds.
    static let provocations: [Violation: @Sendable () -> Violation?] = [
        .unknownOperation: { decode(head(4)).violation },
        .operationNotOffered: { decode(head(2), RequestLimits(offersBarrier: false)).violation },
        .segmentCount: { decode(head(0, 0)).violation },
        .segmentReversed: { totalSectors([segment(3, 2)]).violation },
        .segmentBeyondPage: { totalSectors([segment(0, 8)]).violation },
        .misaligned: { totalSectors([segment(1, 7)], mask: 7).violation },
        .beyondEnd: { extent(8, 1, 8) },
        .readOnly: { decode(head(1), RequestLimits(isReadOnly: true)).violation },
        .indirectOperation: { decode(head(6, 2, 1)).violation },
    ]

    /// Judged by the ring and by the hypervisor, not from a request's bytes.
    static let judgedElsewhere: Set<Violation> = [.requestOverrun, .grantRefused]

    @Test(arguments: Violation.allCases) func isProvokedUnderItsOwnName(violation: Violation) throws {
        guard !Self.judgedElsewhere.contains(violation) else { return }
        let provoke = try #require(Self.provocations[violation], "nothing provokes \(violation)")
        #expect(provoke() == violation)
    }

    @Test(arguments: Violation.allCases) func costsWhatTheProtocolSays(violation: Violation) {
        let expected: Violation.Consequence =
            switch violation {
            case .requestOverrun: .stopsRing
            case .unknownOperation, .operationNotOffered: .refusesRequest
            default: .failsRequest
            }
        #expect(violation.consequence == expected)
    }

    @Test func namesAreDistinctWords() {
        let names = Violation.allCases.map(\.name)
        #expect(Set(names).count == names.count)
        #expect(names.allSatisfy { !$0.isEmpty && $0.allSatisfy { $0.isASCII && $0.isLetter } })
        #expect(Violation.segmentBeyondPage.name == "segmentBeyondPage")
    }

    /// Read-only devices refuse every operation that changes the volume, and only those.
    @Test(
        arguments: [
            (head(0), nil), (head(1), Violation.readOnly), (head(2), .readOnly), (head(3, 0), nil),
            (head(3, 1), .readOnly),
            (head(5), .readOnly), (head(6, 0, 1), nil), (head(6, 1, 1), .readOnly),
        ] as [(Bytes, Violation?)]) func readOnlyRefusesWrites(request: Bytes, expected: Violation?)
    {
        let limits = RequestLimits(isReadOnly: true, offersBarrier: true, offersFlush: true, offersDiscard: true)
        #expect(decode(request, limits).violation == expected)
    }
}

/// A request whose first bytes are these.
private func head(_ operation: UInt8, _ second: UInt8 = 1, _ third: UInt8 = 0) -> Bytes {
    [operation, second, third] + Bytes(repeating: 0, count: 109)
}

private func segment(_ first: UInt8, _ last: UInt8) -> blkif_segment_wire {
    blkif_segment_wire(gref: 0, first_sect: first, last_sect: last, pad: 0)
}

private func extent(_ sector: UInt64, _ count: UInt64, _ capacity: UInt64) -> Violation? {
    do throws(Violation) {
        try SegmentRules.checkExtent(sector: sector, count: count, capacity: capacity, alignmentMask: 0)
        return nil
    } catch {
        return error
    }
}
