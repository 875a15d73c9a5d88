import CFuzzDriver
import CXen
import XenWire

/// Feeds whatever libFuzzer thinks of to everything that looks at a guest's bytes, or at a journal's. A trap, an access outside the slot
/// or the segment table (each has heap memory of its own) or a broken promise ends the run.
@main struct FuzzWire {
    private static let journal = try? JournalFuzz()
    /// Used on the one thread that there is.
    nonisolated(unsafe) private static let netJournals = try? NetJournalFuzz()

    static func main() {
        unsafe precondition(journal != nil && netJournals != nil, "no file can be made in /dev/shm")
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
        // The driver keeps argc and argv for its own life only, and calls back on this thread.
        unsafe withUnsafeMutablePointer(to: &arguments) { arguments in
            _ = unsafe LLVMFuzzerRunDriver(
                &count,
                UnsafeMutableRawPointer(arguments).assumingMemoryBound(
                    to: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?.self)
            ) { data, bytes in
                let input = unsafe UnsafeRawBufferPointer(start: data, count: bytes)
                unsafe judge(input)
                unsafe judgeNetwork(input)
                unsafe FuzzWire.journal?.judge(input)
                unsafe FuzzWire.netJournals?.judge(input)
                return 0
            }
        }
    }
}

/// First 16 bytes: the device. Then a slot. Then a segment table.
private func judge(_ input: UnsafeRawBufferPointer) {
    guard input.count >= 16 + 112 else { return }
    let head = unsafe Array(input.prefix(16))
    let abi: BlockABI = head[0] & 1 == 0 ? .native : .x86_32
    let request = unsafe take(abi, input.dropFirst(16))
    let capacity = head[8..<16].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard let decoded = decode(request, limits(head)) else { return }
    let table = unsafe Array(input.dropFirst(16 + 112))
    judgeSegments(table, decoded, mask: limits(head).alignmentMask, capacity: capacity)
}

private func limits(_ head: [UInt8]) -> RequestLimits {
    RequestLimits(
        indirectSegments: min(UInt16(head[1]) << 8 | UInt16(head[2]), SegmentLimit.indirect),
        alignmentMask: head[3] & 1 == 0 ? 0 : 7, isReadOnly: head[3] & 2 != 0, offersBarrier: head[3] & 4 != 0,
        offersFlush: head[3] & 8 != 0, offersDiscard: head[3] & 16 != 0)
}

private func take(_ abi: BlockABI, _ bytes: Slice<UnsafeRawBufferPointer>) -> [UInt8] {
    let slot = unsafe Array(bytes.prefix(abi.entrySize))
    var request = [UInt8](repeating: 0, count: 112)
    unsafe request.withUnsafeMutableBytes { request in
        unsafe slot.withUnsafeBytes { slot in
            guard let from = slot.baseAddress, let to = request.baseAddress else { return }
            unsafe abi.takeRequest(from: from, into: to)
        }
    }
    return request
}

private func decode(_ request: [UInt8], _ limits: RequestLimits) -> BlockRequest? {
    unsafe request.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress else { return nil }
        _ = unsafe BlockRequest.echoedOperation(base)
        do throws(Violation) {
            let decoded = unsafe try BlockRequest.decode(base, within: limits)
            precondition(!(limits.isReadOnly && decoded.operation == .write), "a write on a read-only device")
            precondition(decoded.segmentCount <= (decoded.isIndirect ? limits.indirectSegments : 11))
            return decoded
        } catch {
            return nil
        }
    }
}

private func judgeSegments(_ table: [UInt8], _ decoded: BlockRequest, mask: UInt8, capacity: UInt64) {
    let count = min(Int(decoded.segmentCount), table.count / 8)
    unsafe table.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress, count > 0 else { return }
        let segments = unsafe base.assumingMemoryBound(to: blkif_segment_wire.self)
        do throws(Violation) {
            let total = unsafe try SegmentRules.totalSectors(segments, count: UInt16(count), alignmentMask: mask)
            precondition(total >= count && total <= count * 8)
            try SegmentRules.checkExtent(
                sector: decoded.sector, count: UInt64(total), capacity: capacity, alignmentMask: mask)
            precondition(decoded.sector <= capacity && UInt64(total) <= capacity - decoded.sector)
        } catch {
            return
        }
    }
}
