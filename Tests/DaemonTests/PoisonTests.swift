import Descriptors
import Foundation
import Loopback
import SharedRing
import Testing

/// A request during which the daemon ends for a fault of its own, whoever starts it.
@Suite struct PoisonTests {
    /// The guest's memory, of which the data page can be taken away: whoever copies from or to it then gets SIGBUS. It is
    /// what a fault looks like that depends on nothing but the request.
    private struct Hole {
        private let memory: Int32
        private let size: Int

        init() throws {
            let descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
                Int32($0)
            }
            let mine = descriptors.filter { number in
                (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(number)"))?
                    .hasPrefix("/memfd:domain") == true && Hole.size(number) == Int(PoisonTests.pages) << 12
            }
            memory = try #require(mine.first)
            try #require(mine.count == 1)
            size = Hole.size(memory)
        }

        private static func size(_ descriptor: Int32) -> Int {
            var status = stat()
            return unsafe fstat(descriptor, &status) == 0 ? Int(status.st_size) : -1
        }

        /// - Parameter frame: this one and all behind it are gone.
        func open(at frame: UInt32) throws { try resize(Int(frame) << 12) }
        func close() throws { try resize(size) }

        private func resize(_ bytes: Int) throws {
            let result = ftruncate(memory, bytes)
            try #require(result == 0)
        }
    }

    /// No other world of this process has a domain of so many.
    private static let pages: UInt32 = 251

    @Test func `after two faults the backlog is done one by one, and who faults alone gets an error`() throws {
        let world = try World(pages: Self.pages)
        var daemon = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        #expect(frontend.request(0, sector: 0) == 0)
        let hole = try Hole()
        try hole.open(at: frontend.dataFrame)
        #expect(frontend.request(0, sector: 8, patience: 1) == nil)
        for fault in 1...3 {
            #expect(daemon.wait() == .killed(signal: SIGBUS), "fault \(fault)")
            #expect(try world.read(World.back("state")) == "4")
            daemon = try world.startDaemon()
        }
        #expect(frontend.awaitResponse() == -1)
        // Nothing else was lost.
        #expect(frontend.request(3, sector: 0) == 0)
        try hole.close()
        #expect(frontend.request(0, sector: 8) == 0)
        #expect(try world.eventually { try world.status?.contains("\"condemned\":1") == true })
        #expect(daemon.ended == nil)
        daemon.kill()
    }

    @Test func `kills count for nothing, however many`() throws {
        let world = try World()
        var daemon = try world.startDaemon()
        var frontend = try world.connect(try world.makeVolume(sectors: 64))
        for round in 0..<10 {
            #expect(frontend.request(0, sector: UInt64(round)) == 0)
            // Sent by somebody else: no fault of a request's.
            daemon.signal(round % 2 == 0 ? SIGKILL : SIGSEGV)
            _ = daemon.wait()
            daemon = try world.startDaemon()
        }
        #expect(frontend.request(0, sector: 1) == 0)
        #expect(try world.eventually { try world.status?.contains("\"condemned\":0") == true })
        daemon.kill()
    }
}
