import Loopback
import ScenarioWorld
import SharedRing
import XenWire

/// A request that breaks a rule, and what must become of it.
struct Attack: Sendable {
    var request: RawRequest
    var violation: Violation
    /// The operation that the response must carry, if not the request's own.
    var echo: UInt8?

    var expectation: Attacker.Expectation {
        Attacker.Expectation(
            operation: echo ?? request.operation, statuses: [violation.consequence == .refusesRequest ? -2 : -1],
            violation: violation)
    }
}

/// Every field of every kind of request, out of range in every way that means something.
struct AttackList {
    /// A page that the backend may read and write.
    let page: GrantReference
    /// A page that the backend may read, full of segments of `page`, all well formed.
    let table: GrantReference
    let capacity: UInt64
    let indirectLimit: UInt16

    private func segment(_ first: UInt8 = 0, _ last: UInt8 = 7) -> RawRequest.Segment {
        RawRequest.Segment(reference: page, first: first, last: last)
    }

    private func direct(
        _ operation: UInt8, count: UInt8 = 1, sector: UInt64 = 0, _ segments: [RawRequest.Segment]
    ) -> RawRequest {
        RawRequest(operation: operation, second: count, identifier: 0, sector: sector, segments: segments)
    }

    private func indirect(_ inner: UInt8 = 0, count: UInt16 = 1, sector: UInt64 = 0) -> RawRequest {
        RawRequest(
            operation: 6, second: inner, identifier: 0, sector: sector, indirectCount: count, indirectPages: [table])
    }

    /// A read that breaks no rule.
    func honest(isIndirect: Bool) -> RawRequest {
        isIndirect ? indirect(count: 2) : direct(0, sector: 8, [segment()])
    }

    var everything: [Attack] { operations + counts + segments + positions + indirects }

    var operations: [Attack] {
        ([4, 7, 8, 127, 128, 254, 255] as [UInt8]).map {
            Attack(request: direct($0, [segment()]), violation: .unknownOperation)
        } + [2, 5].map { Attack(request: direct($0, [segment()]), violation: .operationNotOffered) }
    }

    var counts: [Attack] {
        let many = Array(repeating: segment(), count: 11)
        return ([0, 1] as [UInt8]).flatMap { operation in
            ([0, 12, 13, 32, 127, 128, 254, 255] as [UInt8]).map {
                Attack(request: direct(operation, count: $0, many), violation: .segmentCount)
            }
        } + [12, 255].map { Attack(request: direct(3, count: $0, many), violation: .segmentCount) }
    }

    var segments: [Attack] {
        [0, 1].flatMap { operation in
            [
                Attack(request: direct(operation, [segment(1, 0)]), violation: .segmentReversed),
                Attack(request: direct(operation, [segment(7, 6)]), violation: .segmentReversed),
                Attack(request: direct(operation, [segment(255, 0)]), violation: .segmentReversed),
                Attack(request: direct(operation, [segment(0, 8)]), violation: .segmentBeyondPage),
                Attack(request: direct(operation, [segment(0, 255)]), violation: .segmentBeyondPage),
                Attack(request: direct(operation, [segment(8, 8)]), violation: .segmentBeyondPage),
                Attack(request: direct(operation, [segment(255, 255)]), violation: .segmentBeyondPage),
                Attack(
                    request: direct(operation, count: 11, Array(repeating: segment(), count: 10) + [segment(0, 9)]),
                    violation: .segmentBeyondPage),
            ]
        }
    }

    var positions: [Attack] {
        let outside = [
            capacity - 7, capacity - 1, capacity, capacity + 1, 1 << 32, 1 << 54, 1 << 55, 1 << 63, .max - 7, .max,
        ]
        return outside.flatMap { sector in
            [
                Attack(request: direct(0, sector: sector, [segment()]), violation: .beyondEnd),
                Attack(request: direct(1, sector: sector, [segment()]), violation: .beyondEnd),
                Attack(request: indirect(1, sector: sector), violation: .beyondEnd, echo: 1),
            ]
        }
    }

    var indirects: [Attack] {
        ([2, 3, 5, 6, 7, 128, 255] as [UInt8]).map {
            Attack(request: indirect($0), violation: .indirectOperation, echo: $0)
        }
            + ([0, indirectLimit + 1, 512, 513, 4096, 4097, 32767, 32768, 65535] as [UInt16]).map {
                Attack(request: indirect(0, count: $0), violation: .segmentCount, echo: 0)
            }
    }
}
