import CXen
import Testing
import XenWire

@Suite struct DecodePropertyTests {
    static let everyOffer: [RequestLimits] = {
        var offers: [RequestLimits] = []
        for segments: UInt16 in [0, 1, 11, 256, 4096] {
            for bits in 0..<16 {
                offers.append(
                    RequestLimits(
                        indirectSegments: segments, isReadOnly: bits & 1 != 0, offersBarrier: bits & 2 != 0,
                        offersFlush: bits & 4 != 0, offersDiscard: bits & 8 != 0))
            }
        }
        return offers
    }()

    /// 112 random bytes give a request that keeps every rule, or the name of a rule that they break.
    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func randomBytesAreJudgedRightly(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var request = Bytes(repeating: 0, count: 112)
        for round in 0..<10_000 {
            for index in request.indices { request[index] = UInt8(truncatingIfNeeded: random.next()) }
            bias(&request, &random)
            let limits = Self.everyOffer[Int.random(in: 0..<Self.everyOffer.count, using: &random)]
            guard isJudgedRightly(request, limits) else {
                Issue.record("seed \(seed), round \(round): \(request) \(limits) -> \(decode(request, limits))")
                return
            }
        }
    }

    /// Most requests are of a known kind, with small numbers where numbers are judged.
    private func bias(_ request: inout Bytes, _ random: inout SplitMix64) {
        guard UInt8.random(in: 0..<8, using: &random) > 0 else { return }
        request[0] = UInt8.random(in: 0...6, using: &random)
        request[1] = UInt8.random(in: 0...(request[0] == 6 ? 2 : 13), using: &random)
        if request[0] == 6 { request[3] = UInt8.random(in: 0...17, using: &random) }
    }

    private func isJudgedRightly(_ request: Bytes, _ limits: RequestLimits) -> Bool {
        let broken = Oracle.broken(request, limits)
        return switch decode(request, limits) {
        case .success(let decoded): broken.isEmpty && Oracle.agrees(decoded, with: request)
        case .failure(let violation): broken.contains(violation)
        }
    }

    /// Every operation and its neighbours with every telling second byte, under every offer.
    @Test func everyHeadIsJudgedRightly() {
        var request = Bytes(repeating: 0, count: 112)
        for limits in Self.everyOffer {
            for operation in Array(0...9) + [127, 128, 254, 255] as [UInt8] {
                for second: UInt8 in [0, 1, 2, 3, 5, 6, 10, 11, 12, 13, 32, 127, 128, 254, 255] {
                    (request[0], request[1]) = (operation, second)
                    if !isJudgedRightly(request, limits) {
                        Issue.record("\(operation), \(second), \(limits) -> \(decode(request, limits))")
                    }
                }
            }
        }
    }

    @Test func everyIndirectCountIsJudgedRightly() {
        var request = Bytes(repeating: 0, count: 112)
        request[0] = 6
        for maximum: UInt16 in [0, 1, 2, 255, 256, 511, 512, 513, 4095, 4096] {
            let limits = RequestLimits(indirectSegments: maximum)
            for count in Array(0...600) + Array(4090...4100) + [32767, 32768, 65534, 65535] as [UInt16] {
                (request[2], request[3]) = (UInt8(count & 0xff), UInt8(count >> 8))
                if !isJudgedRightly(request, limits) { Issue.record("\(count) of \(maximum)") }
            }
        }
    }

    @Test(arguments: [0, 1, 3, 7] as [UInt8]) func everySegmentIsJudgedRightly(mask: UInt8) {
        let sectors: [UInt8] = Array(0...20) + [127, 128, 254, 255]
        for first in sectors {
            for last in sectors {
                let segment = blkif_segment_wire(gref: 1, first_sect: first, last_sect: last, pad: 0xffff)
                let broken = Oracle.broken([segment], alignment: mask + 1)
                switch totalSectors([segment], mask: mask) {
                case .success(let total): #expect(broken.isEmpty && Int(total) == Int(last) - Int(first) + 1)
                case .failure(let violation): #expect(broken.contains(violation), "\(first)...\(last)")
                }
            }
        }
    }

    /// The short way says yes exactly where the general one does.
    @Test func soundSegmentsAreThoseThatBreakNoRule() {
        let sectors: [UInt8] = Array(0...9) + [127, 128, 254, 255]
        for first in sectors {
            for last in sectors {
                let segment = blkif_segment_wire(gref: 1, first_sect: first, last_sect: last, pad: 0)
                let broken = Oracle.broken([segment], alignment: 1)
                let sound = SegmentRules.soundSectors(segment)
                #expect(sound == (broken.isEmpty ? UInt32(last) - UInt32(first) + 1 : 0), "\(first)...\(last)")
            }
        }
    }

    /// One bad segment anywhere spoils the request, and good ones add up.
    @Test func listsOfSegmentsAreJudgedRightly() {
        var random = SplitMix64(seed: 5)
        for count in [0, 1, 2, 10, 11, 512, 4095, 4096] {
            var segments = (0..<count).map { _ in wellFormed(&random) }
            let sum = segments.reduce(0) { $0 + UInt32($1.last_sect - $1.first_sect) + 1 }
            #expect(totalSectors(segments) == .success(sum))
            guard count > 0 else { continue }
            segments[Int.random(in: 0..<count, using: &random)].last_sect = 8
            #expect(totalSectors(segments) == .failure(.segmentBeyondPage))
        }
        let largest = [blkif_segment_wire](
            repeating: blkif_segment_wire(gref: 0, first_sect: 0, last_sect: 7, pad: 0), count: 4096)
        #expect(totalSectors(largest) == .success(32768))
    }

    private func wellFormed(_ random: inout SplitMix64) -> blkif_segment_wire {
        let first = UInt8.random(in: 0...7, using: &random)
        return blkif_segment_wire(
            gref: .random(in: .min ... .max, using: &random), first_sect: first,
            last_sect: .random(in: first...7, using: &random), pad: 0)
    }

    @Test(arguments: [0, 1, 7] as [UInt8]) func extentsAreJudgedRightly(mask: UInt8) {
        let edges: [UInt64] = [0, 1, 7, 8, 9, 1 << 32, 1 << 55, 1 << 63, .max - 8, .max - 7, .max - 1, .max]
        for capacity in edges + [4096, 4097] {
            let around = edges + [capacity &- 8, capacity &- 1, capacity, capacity &+ 1, capacity &+ 8]
            for sector in around {
                for count in around + [capacity &- sector, capacity &- sector &+ 1] {
                    let broken = Oracle.broken(
                        sector: sector, count: count, capacity: capacity, alignment: mask + 1)
                    let violation = extentViolation(sector, count, capacity, mask)
                    #expect(violation.map(broken.contains) ?? broken.isEmpty, "\(sector)+\(count) of \(capacity)")
                }
            }
        }
    }

    private func extentViolation(_ sector: UInt64, _ count: UInt64, _ capacity: UInt64, _ mask: UInt8) -> Violation? {
        do throws(Violation) {
            try SegmentRules.checkExtent(sector: sector, count: count, capacity: capacity, alignmentMask: mask)
            return nil
        } catch {
            return error
        }
    }
}
