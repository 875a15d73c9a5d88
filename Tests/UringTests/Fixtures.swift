import CLinux
import Descriptors
import Glibc
import Testing

@testable import Uring

/// A file of `size` bytes in the package's build file system (ext4 here; tmpfs has no O_DIRECT on older kernels), gone
/// with the value.
final class ScratchFile {
    let path: String
    let descriptor: Int32

    init(size: Int, direct: Bool = false) throws {
        var template = Array("\(ScratchFile.directory)/uring-XXXXXX".utf8CString)
        let made = unsafe mkstemp(&template)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        try #require(made >= 0, "mkstemp \(path)")
        try #require(ftruncate(made, size) == 0)
        close(made)
        descriptor = unsafe open(path, O_RDWR | O_CLOEXEC | (direct ? linux_o_direct : 0))
        try #require(descriptor >= 0, "open \(path)")
    }

    deinit {
        close(descriptor)
        _ = unsafe unlink(path)
    }

    /// Not /tmp, which is a tmpfs on many hosts.
    private static var directory: String {
        guard let name = unsafe getenv("TMPDIR") else { return "/var/tmp" }
        return unsafe String(cString: name)
    }
}

/// Page-aligned memory that stays where it is.
@safe final class Slab {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ size: Int) {
        unsafe bytes = .allocate(byteCount: size, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { unsafe bytes.deallocate() }

    func address(_ offset: Int) -> UnsafeMutableRawPointer? {
        unsafe bytes.baseAddress.map { unsafe $0 + offset }
    }

    func fill(_ range: Range<Int>, _ value: UInt8) {
        for index in range { unsafe bytes[index] = value }
    }

    func holds(_ range: Range<Int>, _ value: UInt8) -> Bool {
        range.allSatisfy { unsafe bytes[$0] == value }
    }
}

/// An eventfd pair, as a queue has: event channel and control.
struct Bells: ~Copyable {
    let event = OwnedDescriptor(owning: linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)))
    let control = OwnedDescriptor(owning: linux_eventfd(UInt32(EFD_CLOEXEC | EFD_NONBLOCK)))

    func ring(_ bell: borrowing OwnedDescriptor) { eventfd_write(bell.number, 1) }
}

extension Engine {
    func start(_ operations: [IOOperation]) -> Int {
        unsafe operations.withUnsafeBufferPointer { table in
            guard let base = table.baseAddress else { return 0 }
            return unsafe submit(base, count: table.count)
        }
    }

    func take(_ limit: Int = 64) -> [IOCompletion] {
        var table = [IOCompletion](repeating: IOCompletion(tag: 0, result: 0), count: limit)
        let count = unsafe table.withUnsafeMutableBufferPointer { table in
            guard let base = table.baseAddress else { return 0 }
            return unsafe reap(base, capacity: table.count)
        }
        return Array(table.prefix(count))
    }

    /// Waits and reaps until `count` operations have ended, or `seconds` without any have gone by.
    func finish(_ count: Int, seconds: UInt64 = 10) -> [IOCompletion] {
        var ended = take()
        while ended.count < count {
            let reasons = wait(nanoseconds: seconds * 1_000_000_000)
            let more = take()
            if reasons.isEmpty && more.isEmpty { break }
            ended += more
        }
        return ended
    }

    /// Runs all operations to their ends, by tag.
    func run(_ operations: [IOOperation]) -> [UInt32: Int32] {
        var left = operations[...]
        var results: [UInt32: Int32] = [:]
        while !left.isEmpty {
            let accepted = start(Array(left))
            left = left.dropFirst(accepted)
            for end in finish(accepted) {
                #expect(results.updateValue(end.result, forKey: end.tag) == nil, "tag \(end.tag) ended twice")
            }
        }
        return results
    }
}

enum Engines {
    static let kinds: [EngineKind] = [.uring, .libaio]

    static func make(_ kind: EngineKind, _ file: ScratchFile, capacity: Int) throws -> any Engine {
        switch kind {
        case .libaio: try AioEngine(file: file.descriptor, capacity: capacity)
        case .uring, .auto: try UringEngine(file: file.descriptor, capacity: capacity)
        }
    }

    /// An engine that watches nothing.
    static func started(_ kind: EngineKind, _ file: ScratchFile, capacity: Int) throws -> any Engine {
        let engine = try make(kind, file, capacity: capacity)
        try engine.watch(event: -1, control: -1)
        return engine
    }
}

extension IOOperation {
    /// On unregistered memory.
    static func plain(_ kind: OperationKind, _ slab: Slab, at place: Int, offset: UInt64, _ length: UInt32, tag: UInt32)
        -> IOOperation
    {
        unsafe IOOperation(
            kind, buffer: slab.address(place), slab: IOOperation.unregistered, offset: offset, length: length, tag: tag)
    }
}

/// Two connected sockets that keep messages apart, in the place of a TAP device and what is behind it.
final class FrameSockets {
    let near, far: OwnedDescriptor

    init() throws {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        try #require(unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0)
        near = OwnedDescriptor(owning: ends[0])
        far = OwnedDescriptor(owning: ends[1])
    }

    func received() -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 20_000)
        let count = unsafe read(far.number, &bytes, bytes.count)
        return count > 0 ? Array(bytes.prefix(count)) : nil
    }
}
