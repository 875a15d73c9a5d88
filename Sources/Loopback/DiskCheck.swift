internal import CLinux
internal import CXen
public import Descriptors
internal import Glibc
internal import SharedRing
public import XenWire

/// Why a disk is not known to be what its file is.
public enum DiskCheckError: Error, Equatable, Sendable, CustomStringConvertible {
    case differs(sector: UInt64)
    /// A read was answered with an error.
    case failed(sector: UInt64, status: BlockStatus)
    /// The disk and the file do not end at the same place.
    case size(disk: UInt64, file: UInt64)
    case interrupted
    case backendGone
    case backend(BackendMisbehaviour)
    case host(Fault)

    public var description: String {
        switch self {
        case .differs(let sector): "sector \(sector) through the ring is not what the file holds"
        case .failed(let sector, let status): "reading sector \(sector) was answered with \(status)"
        case .size(let disk, let file): "the disk has \(disk) bytes, its file \(file)"
        case .interrupted: "the comparison of the disk with its file was interrupted"
        case .backendGone: "the daemon ended while its disk was compared"
        case .backend(let misbehaviour): misbehaviour.description
        case .host(let fault): fault.description
        }
    }
}

/// Reads a whole disk through a queue and compares every byte with the file behind it, which is read by itself.
public struct DiskCheck: ~Copyable {
    private let file: OwnedDescriptor
    private let sectors: UInt64
    private let sectorsPerRead: UInt32
    private var expected: [UInt8]
    private var next: UInt64 = 0
    /// Sectors that were compared, all of them equal so far.
    public private(set) var comparedSectors: UInt64 = 0

    /// - Parameters:
    ///   - segments: of a request, each of 4,096 bytes; the queue must allow as many.
    ///   - capacity: the disk's; the file's length must be the same.
    public init(_ path: String, capacity: Sector, segments: UInt16) throws(DiskCheckError) {
        let opened = try Self.open(path)
        let length = UInt64(max(lseek(opened.number, 0, SEEK_END), 0))
        guard length == capacity.rawValue &* Sector.size else {
            throw .size(disk: capacity.rawValue &* Sector.size, file: length)
        }
        file = opened
        sectors = capacity.rawValue
        sectorsPerRead = UInt32(max(segments, 1)) * 8
        expected = [UInt8](repeating: 0, count: Int(sectorsPerRead) * 512)
    }

    private static func open(_ path: String) throws(DiskCheckError) -> OwnedDescriptor {
        do {
            // The string lives during the call.
            return try OwnedDescriptor(unsafe linux_open(path, O_RDONLY | O_CLOEXEC, 0), "open \(path)")
        } catch {
            throw .host(error)
        }
    }

    /// Compares the whole disk.
    ///
    /// - Parameter isOver: asked while the backend is silent; true ends the comparison with an error.
    public mutating func run(on queue: inout FrontQueue, isOver: () throws(DiskCheckError) -> Bool)
        throws(DiskCheckError)
    {
        while comparedSectors < sectors {
            submit(&queue)
            let done = try reap(&queue)
            for index in 0..<done { try compare(queue.completion(index), &queue) }
            if done > 0 { continue }
            if try isOver() { throw .interrupted }
            rest(&queue)
        }
    }

    private mutating func submit(_ queue: inout FrontQueue) {
        while next < sectors, let slot = queue.takeSlot() {
            let count = min(sectors - next, UInt64(sectorsPerRead))
            queue.submit(slot, .read, sector: next, sectors: UInt32(truncatingIfNeeded: count), at: 0)
            next += count
        }
        queue.publish()
    }

    private func reap(_ queue: inout FrontQueue) throws(DiskCheckError) -> Int {
        do {
            return try queue.reap()
        } catch {
            throw .backend(error)
        }
    }

    /// Sleeps until the backend says something, but not for long: a dead one says nothing.
    private func rest(_ queue: inout FrontQueue) {
        guard queue.arm() else { return }
        _ = linux_poll_one(queue.port.channel.descriptor, Int16(POLLIN), 50)
        _ = queue.port.channel.drain()
        queue.port.channel.unmask()
    }

    private mutating func compare(
        _ completion: FrontCompletion, _ queue: inout FrontQueue
    ) throws(DiskCheckError) {
        guard completion.status == .okay else { throw .failed(sector: completion.sector, status: completion.status) }
        let count = Int(completion.sectors) * 512
        try readFile(at: completion.sector, count)
        // The slot's buffer holds the sectors that were read, and `expected` at least as many.
        let found = unsafe UnsafeRawBufferPointer(start: queue.buffer(completion.slot), count: count)
        if let place = unsafe Self.difference(found, expected) {
            throw .differs(sector: completion.sector &+ UInt64(place / 512))
        }
        comparedSectors += UInt64(completion.sectors)
    }

    private mutating func readFile(at sector: UInt64, _ count: Int) throws(DiskCheckError) {
        var done = 0
        while done < count {
            // The kernel writes into `expected`, from `done` to `count` at most.
            let got = unsafe expected.withUnsafeMutableBytes { buffer in
                unsafe pread(
                    file.number, buffer.baseAddress.map { unsafe $0 + done }, count - done, off_t(sector * 512) + done)
            }
            guard got > 0 else { throw .host(Fault("read the file at sector \(sector)", errno: got < 0 ? errno : EIO)) }
            done += got
        }
    }

    /// Where the two differ first; nil if they do not.
    private static func difference(_ found: UnsafeRawBufferPointer, _ expected: [UInt8]) -> Int? {
        // Both have `found.count` bytes at least.
        unsafe expected.withUnsafeBytes { expected in
            guard let left = found.baseAddress, let right = expected.baseAddress,
                unsafe memcmp(left, right, found.count) != 0
            else { return nil }
            return found.indices.first { unsafe found[$0] != expected[$0] }
        }
    }
}
