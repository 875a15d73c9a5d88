import Testing
import XenWire

@testable import NetFrames

@Suite struct TranslationTests {
    static let payload = (0..<1000).map { UInt8(truncatingIfNeeded: $0 * 31) }
    static let kinds: [(InternetProtocol, TransportProtocol)] = [(.v4, .tcp), (.v4, .udp), (.v6, .tcp), (.v6, .udp)]

    // MARK: headers

    @Test(arguments: kinds, [0, 1, 2])
    func headersAreFound(_ kind: (InternetProtocol, TransportProtocol), tags: Int) throws {
        let frame = Frame(kind.0, kind.1, payload: Self.payload, tags: Array(repeating: 5, count: tags))
        let headers = try #require(frame.headers)
        #expect(headers.tags == tags && headers.network == 14 + 4 * tags)
        #expect(headers.ip == kind.0 && headers.transportProtocol == kind.1)
        #expect(headers.transport == headers.network + (kind.0 == .v4 ? 20 : 40))
        #expect(headers.end == frame.bytes.count)
    }

    @Test func extensionHeadersAreSkipped() throws {
        let options: [UInt8] = [6, 1] + Array(repeating: 0, count: 14)
        let frame = Frame(.v6, .tcp, payload: [1, 2, 3], extensions: [options])
        #expect(try #require(frame.headers).transport == 14 + 40 + 16)
        let endless = Frame(.v6, .tcp, payload: [], extensions: Array(repeating: [0, 0, 0, 0, 0, 0, 0, 0], count: 100))
        #expect(try #require(endless.headers).transportProtocol == nil)
    }

    /// Every byte that is missing, every length that lies.
    @Test(arguments: kinds)
    func cutFramesAreSafe(_ kind: (InternetProtocol, TransportProtocol)) {
        let whole = Frame(kind.0, kind.1, payload: [1, 2, 3, 4], options: kind.1 == .tcp ? 8 : 0)
        for count in 0..<whole.bytes.count {
            var frame = whole
            frame.bytes = Array(frame.bytes.prefix(count))
            guard count > 0 else { continue }
            let headers = frame.headers
            #expect((headers == nil) == (count < 14))
            #expect(headers?.transportProtocol == nil, "the packet is longer than the frame")
        }
        for position in 12..<whole.bytes.count {
            for value: UInt8 in [0, 1, 0x0F, 0x45, 0x4F, 0x7F, 0x80, 0xFF] {
                var frame = whole
                frame.bytes[position] = value
                guard let headers = frame.headers else { continue }
                #expect(headers.end <= frame.bytes.count && headers.transport <= headers.end)
                unsafe frame.withMemory { memory, count in
                    for flags in [TransmitFlags.checksumBlank, []] {
                        _ = try? unsafe Translation.toHost(memory, count: count, flags, nil)
                        _ = try? unsafe Translation.toHost(memory, count: count, flags, Segmentation(.tcpV4, size: 7))
                    }
                }
            }
        }
    }

    @Test func fragmentsHaveNoTransport() throws {
        for fragment: UInt16 in [0x2000, 1, 0x1FFF] {
            let frame = Frame(.v4, .udp, payload: Self.payload, fragment: fragment)
            #expect(try #require(frame.headers).transportProtocol == nil)
        }
        // Don't Fragment says nothing of the kind.
        #expect(try #require(Frame(.v4, .udp, payload: [], fragment: 0x4000).headers).transportProtocol == .udp)
    }

    // MARK: from the guest

    @Test(arguments: kinds, [0, 1])
    func aMissingSumIsPlaced(_ kind: (InternetProtocol, TransportProtocol), tags: Int) throws {
        var frame = Frame(kind.0, kind.1, payload: Self.payload, tags: Array(repeating: 9, count: tags))
        let header = unsafe try frame.withMemory { unsafe try Translation.toHost($0, count: $1, .checksumBlank, nil) }
        let headers = try #require(frame.headers)
        #expect(header.flags == VirtioHeader.needsChecksum && header.segmentation == VirtioHeader.none)
        #expect(Int(header.checksumStart) == headers.transport)
        #expect(Int(header.checksumOffset) == (kind.1 == .tcp ? 16 : 6))
        #expect(frame.checksum == frame.pseudoSum)
    }

    @Test func sumsOfUnknownsAreRefused() {
        var arp = Frame(.v4, .tcp, payload: [])
        arp.bytes[12] = 8
        arp.bytes[13] = 6
        #expect(throws: FrameFault.checksumOfUnknown) {
            unsafe try arp.withMemory { unsafe try Translation.toHost($0, count: $1, .checksumBlank, nil) }
        }
        var icmp = Frame(.v4, .tcp, payload: [])
        icmp.bytes[23] = 1
        #expect(throws: FrameFault.checksumOfUnknown) {
            unsafe try icmp.withMemory { unsafe try Translation.toHost($0, count: $1, .checksumBlank, nil) }
        }
    }

    @Test(arguments: [InternetProtocol.v4, .v6], [TransmitFlags.checksumBlank, []])
    func largeSegmentsAreDescribed(ip: InternetProtocol, flags: TransmitFlags) throws {
        var frame = Frame(ip, .tcp, payload: Array(repeating: 7, count: 30_000), options: 12)
        let kind: SegmentationKind = ip == .v4 ? .tcpV4 : .tcpV6
        let header = unsafe try frame.withMemory {
            unsafe try Translation.toHost($0, count: $1, flags, Segmentation(kind, size: 1448))
        }
        #expect(header.segmentation == (ip == .v4 ? VirtioHeader.tcpV4 : VirtioHeader.tcpV6))
        #expect(header.segmentSize == 1448 && header.flags == VirtioHeader.needsChecksum)
        #expect(Int(header.headerLength) == frame.bytes.count - 30_000)
        #expect(frame.checksum == frame.pseudoSum)
        #expect(throws: FrameFault.segmentationOfUnknown) {
            unsafe try frame.withMemory {
                unsafe try Translation.toHost(
                    $0, count: $1, flags, Segmentation(ip == .v4 ? .tcpV6 : .tcpV4, size: 1448))
            }
        }
    }

    @Test func largeDatagramsCannotBeCut() {
        var frame = Frame(.v4, .udp, payload: Self.payload)
        #expect(throws: FrameFault.segmentationOfUnknown) {
            unsafe try frame.withMemory {
                unsafe try Translation.toHost($0, count: $1, .checksumBlank, Segmentation(.tcpV4, size: 500))
            }
        }
    }

    // MARK: to the guest

    /// As the kernel hands over a frame whose sum is missing.
    static func partial(_ frame: inout Frame) throws -> VirtioHeader {
        unsafe try frame.withMemory { unsafe try Translation.toHost($0, count: $1, .checksumBlank, nil) }
    }

    @Test(arguments: kinds)
    func missingSumsAreLeftToWhoeverTakesThem(_ kind: (InternetProtocol, TransportProtocol)) throws {
        var frame = Frame(kind.0, kind.1, payload: Self.payload)
        let header = try Self.partial(&frame)
        let before = frame.bytes
        let delivery = unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, .all) }
        #expect(delivery == .whole([.checksumBlank, .dataValidated], nil))
        #expect(frame.bytes == before)
    }

    @Test(arguments: kinds, [0, 1])
    func missingSumsAreCompletedForOthers(_ kind: (InternetProtocol, TransportProtocol), tags: Int) throws {
        for length in [0, 1, 999, 1000] {
            var frame = Frame(
                kind.0, kind.1, payload: Array(Self.payload.prefix(length)), tags: Array(repeating: 1, count: tags))
            let header = try Self.partial(&frame)
            // A tagged frame's sum is nobody's but ours: netif cannot say where it goes.
            let offloads = tags == 0 ? GuestOffloads.none : .all
            let delivery = unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, offloads) }
            #expect(delivery == .whole(.dataValidated, nil))
            #expect(frame.hasGoodSum)
        }
    }

    /// 0 in a UDP header means that there is no sum.
    @Test func aSumOfZeroIsWrittenAsItsTwin() throws {
        var found = false
        for first in UInt8.min...UInt8.max {
            for second in stride(from: UInt8(0), to: 255, by: 1) {
                var frame = Frame(.v4, .udp, payload: [first, second])
                let header = try Self.partial(&frame)
                _ = unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, .none) }
                #expect(frame.checksum != 0)
                found = found || frame.checksum == 0xFFFF
            }
        }
        #expect(found, "one of all payloads of two bytes has that sum")
    }

    @Test func whatIsKnownToBeRightIsSaid() {
        var frame = Frame(.v4, .tcp, payload: [1])
        var header = VirtioHeader()
        #expect(unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, .all) } == .whole([], nil))
        header.flags = VirtioHeader.dataValid
        #expect(
            unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, .all) }
                == .whole(.dataValidated, nil))
    }

    // MARK: cutting

    @Test(arguments: [(InternetProtocol.v4, 0), (.v4, 1), (.v6, 0), (.v6, 1)], [1, 536, 1448, 9000])
    func largeFramesAreCut(_ kind: (InternetProtocol, Int), size: Int) throws {
        let (ip, tags) = kind
        let payload = (0..<10_001).map { UInt8(truncatingIfNeeded: $0 * 13) }
        var frame = Frame(
            ip, .tcp, payload: payload, tags: Array(repeating: 3, count: tags), options: 12, flags: 0x80 | 0x10 | 8 | 1)
        let header = unsafe try frame.withMemory {
            unsafe try Translation.toHost(
                $0, count: $1, .checksumBlank, Segmentation(ip == .v4 ? .tcpV4 : .tcpV6, size: UInt16(size)))
        }
        let offloads: GuestOffloads = tags == 0 ? .none : .all
        let delivery = unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, offloads) }
        guard case .cut(let cut, let headers) = delivery else {
            Issue.record("\(delivery)")
            return
        }
        #expect(cut == size)
        let segments = unsafe frame.withMemory { memory, _ in unsafe Self.segments(memory, headers, size) }
        #expect(segments.count == (payload.count + size - 1) / size)
        let start = frame.bytes.count - payload.count
        #expect(segments.flatMap { $0.bytes.dropFirst(start) } == payload)
        for (index, segment) in segments.enumerated() {
            #expect(segment.hasGoodSum && segment.hasGoodHeaderSum)
            let flags = segment.bytes[headers.transport + 13]
            #expect(flags & 0x80 == (index == 0 ? 0x80 : 0), "CWR")
            #expect(flags & 9 == (index == segments.count - 1 ? 9 : 0), "PSH, FIN")
            let sequence = segment.bytes[headers.transport + 4..<headers.transport + 8].reduce(0) {
                $0 << 8 | UInt32($1)
            }
            #expect(sequence == 0x0102_0304 + UInt32(index * size))
        }
    }

    private static func segments(_ frame: UnsafeMutableRawPointer, _ headers: FrameHeaders, _ size: Int) -> [Frame] {
        guard var segmenter = unsafe Segmenter(frame, headers, payload: size) else { return [] }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: segmenter.largest, alignment: 8)
        defer { unsafe memory.deallocate() }
        var result: [Frame] = []
        while let count = unsafe segmenter.next(memory) {
            var frame = Frame(.v4, .tcp, payload: [])
            frame.bytes = unsafe Array(UnsafeRawBufferPointer(start: memory, count: count))
            result.append(frame)
        }
        return result
    }

    @Test(arguments: [InternetProtocol.v4, .v6])
    func largeFramesGoWholeToWhoeverTakesThem(ip: InternetProtocol) throws {
        var frame = Frame(ip, .tcp, payload: Array(repeating: 1, count: 20_000))
        let segmentation = Segmentation(ip == .v4 ? .tcpV4 : .tcpV6, size: 1448)
        let header = unsafe try frame.withMemory {
            unsafe try Translation.toHost($0, count: $1, .checksumBlank, segmentation)
        }
        let delivery = unsafe frame.withMemory { unsafe Translation.toGuest($0, count: $1, header, .all) }
        #expect(delivery == .whole([.checksumBlank, .dataValidated], segmentation))
    }
}
