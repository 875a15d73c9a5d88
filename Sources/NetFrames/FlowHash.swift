public import XenWire

/// The Toeplitz hash (netif.h; Microsoft's RSS specification): a key's bits slide along the data, and where the data has a
/// 1 the 32 bits of the key that begin there are added.
///
/// Safe because whoever makes one answers for the key.
@safe struct Toeplitz {
    private let key: UnsafePointer<UInt8>
    /// The key's bits from the next bit of data on, the next one in the highest place.
    private var window: UInt64 = 0
    private var sum: UInt64 = 0
    /// The next byte of the key.
    private var next = 0

    /// - Parameter key: `ControlRequest.longestKey` bytes, which outlive the value; a shorter key ends in zeros.
    @_noLocks init(key: UnsafePointer<UInt8>) {
        unsafe self.key = unsafe key
        while next < 8 { takeKeyByte() }
    }

    @_noLocks private mutating func takeKeyByte() {
        // Within the key; zeros follow it.
        window = window << 8 | (next < ControlRequest.longestKey ? UInt64(unsafe key[next]) : 0)
        next &+= 1
    }

    /// Adds `count` bytes.
    @_noLocks mutating func add(_ bytes: UnsafeRawPointer, _ count: Int) {
        var offset = 0
        while offset < count {
            // The caller answers for `count` bytes.
            let byte = UInt64(unsafe bytes.load(fromByteOffset: offset, as: UInt8.self))
            var bit: UInt64 = 0
            while bit < 8 {
                // All ones where the data's bit is set.
                sum ^= (window &<< bit) & (0 &- (byte &>> (7 &- bit) & 1))
                bit &+= 1
            }
            takeKeyByte()
            offset &+= 1
        }
    }

    /// The valid bits are the upper ones: only there the window was whole.
    var value: UInt32 { @_noLocks get { UInt32(truncatingIfNeeded: sum >> 32) } }
}

/// The hash of a frame.
public enum FlowHash {
    /// Of a frame of `count` bytes; nil if none of the types that are on fits it.
    ///
    /// - Parameter key: as `Toeplitz` takes it.
    public static func of(
        _ frame: UnsafeRawPointer, count: Int, _ types: HashTypes, key: UnsafePointer<UInt8>
    ) -> PacketHash? {
        guard !types.isEmpty, let headers = unsafe FrameHeaders(frame, count: count),
            let kind = kind(headers, types)
        else { return nil }
        var hash = unsafe Toeplitz(key: key)
        // The addresses are part of the header that was read, and so are the ports.
        if headers.ip == .v4 {
            unsafe hash.add(frame + headers.network + 12, 8)
        } else {
            unsafe hash.add(frame + headers.network + 8, 32)
        }
        if kind == .ipv4TCP || kind == .ipv6TCP { unsafe hash.add(frame + headers.transport, 4) }
        return PacketHash(kind, hash.value)
    }

    /// The most specific one; no fragment has ports that count.
    private static func kind(_ headers: FrameHeaders, _ types: HashTypes) -> HashKind? {
        guard let ip = headers.ip else { return nil }
        let specific: HashKind = ip == .v4 ? .ipv4TCP : .ipv6TCP
        let general: HashKind = ip == .v4 ? .ipv4 : .ipv6
        if headers.transportProtocol == .tcp, types.contains(HashTypes(specific)) { return specific }
        return types.contains(HashTypes(general)) ? general : nil
    }
}
