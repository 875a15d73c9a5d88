import CPackets
import Descriptors
import Foundation
import NetFrames
import Testing
import XenWire

@testable import Tap

/// The program that steers, run by the kernel itself; needs root.
@Suite(.serialized, .enabled(if: Isolation.isPossible, "SKIPPED: root and /dev/net/tun are needed"))
struct HashSteeringTests {
    static let key: [UInt8] = (0..<40).map { UInt8(truncatingIfNeeded: $0 * 151 + 17) }

    /// A frame of an IP flow that a seed makes up, and in which something may be out of the ordinary.
    static func frame(_ random: inout some RandomNumberGenerator) -> [UInt8] {
        func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in .random(in: 0...255, using: &random) } }
        let transport: UInt8 = [6, 6, 17, 58].randomElement(using: &random) ?? 6
        let link: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        let segment = bytes(12) + [0x50] + bytes(7)
        switch Int.random(in: 0..<10, using: &random) {
        case 0: return link + [8, 6] + bytes(46)
        case 1..<6:
            let options = Int.random(in: 0...10, using: &random)
            let fragment: [UInt8] =
                [[0, 0], [0, 0], [0x40, 0], [0x20, 0], [0, 1]].randomElement(using: &random) ?? [0, 0]
            let head = [UInt8(0x45 + options), 0, 0, UInt8(40 + 4 * options)] + bytes(2)
            return link + [8, 0] + head + fragment + [64, transport] + bytes(2) + bytes(8 + 4 * options) + segment
        default:
            return link + [0x86, 0xDD, 0x60, 0, 0, 0, 0, 20, transport, 64] + bytes(32) + segment
        }
    }

    static func hash(_ frame: [UInt8], _ types: UInt32) -> UInt32 {
        let hash = unsafe frame.withUnsafeBytes { bytes in
            unsafe key.withUnsafeBufferPointer { key -> PacketHash? in
                guard let start = bytes.baseAddress, let key = key.baseAddress else { return nil }
                return unsafe FlowHash.of(start, count: bytes.count, HashTypes(rawValue: types), key: key)
            }
        }
        return hash?.value ?? 0
    }

    @Test(arguments: [(0, 3), (1, 4), (5, 4), (128, 8)])
    func `the kernel finds the queue that the guest's table names`(_ entries: Int, _ queues: Int) throws {
        try Isolation.run {
            let steering = try HashSteering(of: try TapDevice("steer0", queues: queues))
            var random = SystemRandomNumberGenerator()
            for types in UInt32(1)...15 {
                let mapping = (0..<entries).map { _ in UInt8.random(in: 0..<UInt8(queues), using: &random) }
                try steering.set(SteeringTable(types: types, key: Self.key, mapping: mapping, queues: queues))
                for _ in 0..<200 {
                    let frame = Self.frame(&random)
                    let hash = Int(Self.hash(frame, types))
                    let expected = entries == 0 ? hash % queues : Int(mapping[hash % entries])
                    #expect(try steering.queue(frame) == expected, "\(types): \(frame)")
                }
            }
        }
    }

    /// What is cut anywhere, or is not what it says, goes somewhere, and the kernel has checked that nothing else can be.
    @Test func `any frame has a queue`() throws {
        try Isolation.run {
            let steering = try HashSteering(of: try TapDevice("steer0", queues: 4))
            try steering.set(
                SteeringTable(types: 15, key: Self.key, mapping: [0, 1, 2, 3, 3, 2, 1], queues: 4))
            var random = SystemRandomNumberGenerator()
            for _ in 0..<500 {
                let frame = Self.frame(&random)
                for count in 14...frame.count {
                    #expect((0..<4).contains(try steering.queue(Array(frame.prefix(count)))))
                }
            }
        }
    }

    @Test func `frames come out of the queue that they belong to`() throws {
        try Isolation.run {
            let tap = try TapDevice("steer0", queues: 8)
            try tap.attach(queues: 4)
            try tap.setCarrier(true)
            try tap.setUp(true)
            let socket = try PacketSocket(tap.index)
            let steering = try HashSteering(of: tap)
            let mapping: [UInt8] = [2, 0, 3, 1, 1]
            try steering.set(SteeringTable(types: 15, key: Self.key, mapping: mapping, queues: 4))
            var random = SystemRandomNumberGenerator()
            var seen = Set<Int>()
            // The kernel drops frames until it has noticed the carrier (link_watch).
            for _ in 0..<300 {
                let first = Self.frame(&random)
                try socket.send(first)
                if PacketSocket.queue(of: first, tap) != nil { break }
            }
            for _ in 0..<100 {
                let frame = Self.frame(&random)
                try socket.send(frame)
                let queue = try #require(PacketSocket.queue(of: frame, tap))
                #expect(queue == Int(mapping[Int(Self.hash(frame, 15)) % mapping.count]))
                seen.insert(queue)
            }
            #expect(seen == [0, 1, 2, 3])
            // One queue for all, then whichever the kernel takes: not that one alone.
            try steering.set(SteeringTable(types: 15, key: Self.key, mapping: [3], queues: 4))
            #expect(try Self.queues(socket, tap) == [3])
            try tap.resetSteering()
            #expect(try Self.queues(socket, tap).count > 1)
        }
    }

    private static func queues(_ socket: PacketSocket, _ tap: TapDevice) throws -> Set<Int> {
        var random = SystemRandomNumberGenerator()
        return Set(
            try (0..<50).compactMap { _ in
                let frame = frame(&random)
                try socket.send(frame)
                return PacketSocket.queue(of: frame, tap)
            })
    }
}

/// A network namespace for the length of a call: devices in it are nobody else's.
enum Isolation {
    static var isPossible: Bool { geteuid() == 0 && FileManager.default.isWritableFile(atPath: "/dev/net/tun") }

    static func run(_ body: () throws -> Void) throws {
        let network = packets_isolate()
        try #require(network >= 0)
        defer { #expect(packets_return(network) == 0) }
        try body()
    }
}

/// Sends whole frames through an interface.
private final class PacketSocket {
    private let descriptor: OwnedDescriptor

    init(_ interface: Int32) throws {
        descriptor = try OwnedDescriptor(packets_socket(interface), "open a packet socket")
    }

    func send(_ frame: [UInt8]) throws {
        let sent = unsafe write(descriptor.number, frame, frame.count)
        try #require(sent == frame.count)
    }

    /// The queue that a frame comes out of; what the host itself sends is passed over.
    static func queue(of frame: [UInt8], _ tap: TapDevice) -> Int? {
        for _ in 0..<200 {
            for (index, queue) in tap.queues.enumerated() {
                var bytes = [UInt8](repeating: 0, count: 2000)
                let count = unsafe read(queue.number, &bytes, bytes.count)
                if count > 10, bytes[10..<count].elementsEqual(frame) { return index }
            }
            usleep(1000)
        }
        return nil
    }
}
