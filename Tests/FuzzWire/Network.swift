import CXen
import NetFrames
import XenWire

/// A guest's transmit requests, and a frame on its way in either direction. The first 16 bytes say how, then come up to 256
/// slots of 12 bytes, then the frame.
func judgeNetwork(_ input: UnsafeRawBufferPointer) {
    guard input.count >= 16 else { return }
    let head = unsafe Array(input.prefix(16))
    let slots = min(Int(head[0]), (input.count - 16) / 12)
    unsafe judgePackets(Array(input.dropFirst(16).prefix(slots * 12)), count: slots)
    let frame = unsafe Array(input.dropFirst(16 + slots * 12))
    guard !frame.isEmpty else { return }
    fromGuest(frame, head)
    toGuest(frame, head)
}

/// Packet after packet, as a queue does, from memory that ends where the slots end.
private func judgePackets(_ bytes: [UInt8], count: Int) {
    guard count > 0 else { return }
    let memory = UnsafeMutablePointer<netif_tx_request_wire>.allocate(capacity: count)
    defer { unsafe memory.deallocate() }
    // Twelve bytes for each.
    unsafe UnsafeMutableRawPointer(memory).copyMemory(from: bytes, byteCount: count * 12)
    var position = 0
    while position < count {
        do throws(NetViolation) {
            let packet = unsafe try TransmitPacket.judge(memory + position, count: count - position)
            check(packet, (0..<count - position).map { unsafe memory[position + $0] })
            position += packet.slots
        } catch {
            return
        }
    }
}

private func check(_ packet: TransmitPacket, _ requests: [netif_tx_request_wire]) {
    precondition(packet.slots >= 1 && packet.slots <= requests.count && packet.extras < packet.slots)
    // Nothing is copied of one that only changes the multicast list.
    guard packet.fault == nil, packet.multicast == nil else { return }
    let data = [Int(packet.firstSize)] + requests[(1 + packet.extras)..<packet.slots].map { Int($0.size) }
    precondition(data.reduce(0, +) == Int(packet.size), "a packet is as long as its slots")
    precondition(Int(requests[0].offset) + data[0] <= 4096)
    for request in requests[(1 + packet.extras)..<packet.slots] {
        precondition(Int(request.offset) + Int(request.size) <= 4096, "a copy beyond a page")
    }
    precondition(packet.segmentation.map { $0.size > 0 } ?? true)
}

/// Runs `body` on a copy of the frame in memory that begins and ends with it.
private func withCopy(_ frame: [UInt8], _ body: (UnsafeMutableRawPointer) -> Void) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: frame.count, alignment: 2)
    defer { unsafe memory.deallocate() }
    unsafe memory.copyMemory(from: frame, byteCount: frame.count)
    unsafe body(memory)
}

private func segmentation(_ head: [UInt8]) -> Segmentation? {
    SegmentationKind(rawValue: head[1] & 3).map { Segmentation($0, size: UInt16(head[2]) << 8 | UInt16(head[3])) }
}

private let filter = SourceFilter(
    mac: MACAddress("02:00:00:00:00:01"), addresses: ["10.0.0.1", "fd00::/64"].compactMap { AddressRange($0) })

private func fromGuest(_ frame: [UInt8], _ head: [UInt8]) {
    unsafe withCopy(frame) { memory in
        _ = unsafe filter.judge(memory, count: frame.count)
        do throws(FrameFault) {
            let header = unsafe try Translation.toHost(
                memory, count: frame.count, TransmitFlags(rawValue: UInt16(head[4])), segmentation(head))
            guard header.flags & VirtioHeader.needsChecksum != 0 else { return }
            precondition(Int(header.checksumStart) + Int(header.checksumOffset) + 2 <= frame.count)
            precondition(Int(header.headerLength) <= frame.count)
        } catch {
            return
        }
    }
}

private func toGuest(_ frame: [UInt8], _ head: [UInt8]) {
    let offloads = GuestOffloads(
        checksumV4: head[5] & 1 != 0, checksumV6: head[5] & 2 != 0, segmentationV4: head[5] & 4 != 0,
        segmentationV6: head[5] & 8 != 0)
    let header = unsafe head.suffix(10).withUnsafeBytes { bytes in
        unsafe bytes.baseAddress.map { unsafe VirtioHeader($0) } ?? VirtioHeader()
    }
    unsafe withCopy(frame) { memory in
        guard
            case .cut(let payload, let headers) = unsafe Translation.toGuest(
                memory, count: frame.count, header, offloads)
        else { return }
        unsafe cut(memory, headers, payload)
    }
}

/// Into memory that ends where the longest segment may end.
private func cut(_ frame: UnsafeMutableRawPointer, _ headers: FrameHeaders, _ payload: Int) {
    guard var segmenter = unsafe Segmenter(frame, headers, payload: payload) else { return }
    let piece = UnsafeMutableRawPointer.allocate(byteCount: segmenter.largest, alignment: 2)
    defer { unsafe piece.deallocate() }
    var pieces = 0
    while let size = unsafe segmenter.next(piece) {
        pieces += 1
        precondition(size <= segmenter.largest && pieces <= headers.end)
    }
}
