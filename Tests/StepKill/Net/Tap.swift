import Glibc
import NetFrames

/// Instead of a TAP device: a pair of sockets, which keep frames apart. The backend processes inherit one end; the tracer has
/// both, so that it can put back what lay in them.
@safe struct Tap {
    /// The backend's.
    let near: Int32
    /// The host's.
    private let far: Int32

    /// Frames with their headers, on their way.
    struct Contents {
        var toGuest: [[UInt8]] = []
        var toHost: [[UInt8]] = []
    }

    init() throws {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        // An array of two.
        guard unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw Failure("no sockets") }
        (near, far) = (ends[0], ends[1])
    }

    /// A frame for the guest.
    func offer(_ frame: [UInt8]) { Self.put([UInt8](repeating: 0, count: VirtioHeader.size) + frame, far) }

    /// What the backend has sent, headers included.
    func takeSent() -> [[UInt8]] { Self.drain(far) }

    /// What the backend has not read yet is gone; how many frames.
    func dropOffered() -> Int { Self.drain(near).count }

    var offered: Int {
        let frames = Self.drain(near)
        for frame in frames { Self.put(frame, far) }
        return frames.count
    }

    var contents: Contents {
        get {
            let contents = Contents(toGuest: Self.drain(near), toHost: Self.drain(far))
            fill(contents)
            return contents
        }
        nonmutating set {
            _ = (Self.drain(near), Self.drain(far))
            fill(newValue)
        }
    }

    private func fill(_ contents: Contents) {
        for frame in contents.toGuest { Self.put(frame, far) }
        for frame in contents.toHost { Self.put(frame, near) }
    }

    private static func put(_ bytes: [UInt8], _ end: Int32) {
        let count = unsafe write(end, bytes, bytes.count)
        precondition(count == bytes.count, "no room for a frame")
    }

    private static func drain(_ end: Int32) -> [[UInt8]] {
        var frames: [[UInt8]] = []
        while let frame = take(end) { frames.append(frame) }
        return frames
    }

    private static func take(_ end: Int32) -> [UInt8]? {
        let frame = unsafe [UInt8](unsafeUninitializedCapacity: Frame.longest + VirtioHeader.size) { bytes, count in
            // The buffer's own size.
            count = unsafe max(0, read(end, bytes.baseAddress, bytes.count))
        }
        return frame.isEmpty ? nil : frame
    }
}

/// Frames that differ from each other in every part.
enum Frame {
    /// Bytes.
    static let longest = 9000

    static func bytes(_ serial: UInt32, _ size: Int) -> [UInt8] {
        var state = UInt64(serial) &+ 1
        var bytes: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]
        while bytes.count < size {
            state = state &* 0x5851_f42d_4c95_7f2d &+ 0x1405_7b7e_f767_814f
            bytes.append(UInt8(truncatingIfNeeded: state >> 56))
        }
        return bytes
    }
}
