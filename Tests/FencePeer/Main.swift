import BlockBackend
import Glibc
import Uring
import XenWire

/// A process that locks a volume as the daemon does, has writes under way on it, and then waits to be killed; HostTests
/// start it.
///
///     fence-peer VOLUME io_uring|libaio BYTE
@main
struct Main {
    static let writes = 8, bytes = 256 << 10

    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let kind = EngineKind(rawValue: arguments[2]), let byte = UInt8(arguments[3]) else {
            throw Misuse()
        }
        let volume = try Volume(arguments[1], VolumeOptions(direct: .on, loopFiles: false))
        let fence = VolumeFence(volume.data, domain: DomainID(5), device: 51712, host: 1)
        guard try fence.pass() else { throw Misuse() }
        let engine = try volume.makeEngine(EngineChoice(for: kind), capacity: writes)
        try engine.watch(event: -1, control: -1)
        submit(engine, byte)
        print("ready")
        fflush(nil)
        while true { pause() }
    }

    private static func submit(_ engine: any Engine, _ byte: UInt8) {
        // Kept until the process is gone.
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: byte, count: bytes)
        let operations = (0..<writes).map { index in
            unsafe IOOperation(
                .write, buffer: memory, slab: IOOperation.unregistered, offset: UInt64(index * bytes),
                length: UInt32(bytes), tag: UInt32(index))
        }
        _ = unsafe operations.withUnsafeBufferPointer {
            unsafe $0.baseAddress.map { unsafe engine.submit($0, count: writes) }
        }
    }

    struct Misuse: Error {}
}
