import CXen
import CXenReference
import XenWire

/// A request in the native layout, or a ring slot: private bytes whose base is aligned to eight.
typealias Bytes = [UInt8]

extension BlockABI {
    var reference: reference_abi {
        unsafe (self == .native ? reference_native() : reference_x86_32()).pointee
    }

    /// What `takeRequest` makes of a slot of this ABI.
    func take(_ slot: Bytes) -> Bytes {
        precondition(slot.count >= entrySize)
        var request = Bytes(repeating: 0xaa, count: 112)
        unsafe request.withUnsafeMutableBytes { request in
            unsafe slot.withUnsafeBytes { slot in
                guard let to = request.baseAddress, let from = slot.baseAddress else { return }
                unsafe takeRequest(from: from, into: to)
            }
        }
        return request
    }

    /// What `takeHead` and `takeRest` make of a slot, of which everything but its rest changes in between.
    func takeInHalves(_ slot: Bytes) -> Bytes {
        precondition(slot.count >= entrySize)
        var slot = slot
        var request = Bytes(repeating: 0xaa, count: 112)
        unsafe request.withUnsafeMutableBytes { request in
            unsafe slot.withUnsafeMutableBytes { slot in
                guard let to = request.baseAddress, let from = slot.baseAddress else { return }
                unsafe takeHead(from: from, into: to)
                unsafe from.initializeMemory(as: UInt8.self, repeating: 0x55, count: 32)
                unsafe takeRest(from: from, into: to)
            }
        }
        return request
    }

    /// What `putRequest` makes of a native request, on a slot of `0xaa`.
    func put(_ request: Bytes) -> Bytes {
        precondition(request.count == 112)
        return unsafe slot(filledWith: 0xaa) { to in
            unsafe request.withUnsafeBytes { from in
                guard let from = from.baseAddress else { return }
                unsafe putRequest(from, into: to)
            }
        }
    }

    /// What `putResponse` makes of a slot of `0xaa`.
    func response(_ identifier: UInt64, _ operation: UInt8, _ status: BlockStatus) -> Bytes {
        unsafe slot(filledWith: 0xaa) { slot in
            unsafe putResponse(into: slot, identifier: identifier, operation: operation, status: status)
        }
    }

    /// The response as the C structure has it, on a slot of zeros.
    func referenceResponse(_ identifier: UInt64, _ operation: UInt8, _ status: BlockStatus) -> Bytes {
        unsafe slot(filledWith: 0) { slot in
            unsafe reference.write_response(slot, identifier, operation, status.rawValue)
        }
    }

    /// A ring slot of this ABI after `body` has written to it.
    func slot(filledWith byte: UInt8, _ body: (UnsafeMutableRawPointer) -> Void) -> Bytes {
        var slot = Bytes(repeating: byte, count: entrySize)
        unsafe slot.withUnsafeMutableBytes { slot in
            if let base = slot.baseAddress { unsafe body(base) }
        }
        return slot
    }
}

/// `BlockRequest.decode` on bytes.
func decode(_ request: Bytes, _ limits: RequestLimits = RequestLimits()) -> Result<BlockRequest, Violation> {
    precondition(request.count == 112)
    return unsafe request.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress else { return .failure(.unknownOperation) }
        do throws(Violation) {
            return unsafe .success(try BlockRequest.decode(base, within: limits))
        } catch {
            return .failure(error)
        }
    }
}

/// `SegmentRules.totalSectors` on an array.
func totalSectors(_ segments: [blkif_segment_wire], mask: UInt8 = 0) -> Result<UInt32, Violation> {
    unsafe segments.withUnsafeBufferPointer { buffer in
        guard let base = buffer.baseAddress else { return .success(0) }
        do throws(Violation) {
            return unsafe .success(
                try SegmentRules.totalSectors(base, count: UInt16(segments.count), alignmentMask: mask))
        } catch {
            return .failure(error)
        }
    }
}

/// `BlockRequest.echoedOperation` on bytes.
func echoedOperation(_ request: Bytes) -> UInt8? {
    unsafe request.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress else { return nil }
        return unsafe BlockRequest.echoedOperation(base)
    }
}

/// `BlockRequest.identifier` on bytes.
func identifier(_ request: Bytes) -> UInt64? {
    unsafe request.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress else { return nil }
        return unsafe BlockRequest.identifier(base)
    }
}

extension Result {
    /// The violation, if that is what came of it.
    var violation: Failure? {
        if case .failure(let error) = self { error } else { nil }
    }
}

/// Little-endian reading of private bytes, one at a time: the oracle's own way to a field.
extension [UInt8] {
    func number(_ offset: Int, bytes: Int) -> UInt64 {
        (0..<bytes).reduce(0) { $0 | UInt64(self[offset + $1]) << (8 * UInt64($1)) }
    }
}

/// Sebastiano Vigna's splitmix64: small, and the same on every machine.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
