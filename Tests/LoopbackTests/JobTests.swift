import Testing
import XenWire

@testable import Loopback

@Test func jobFilesHaveFiosSyntax() throws {
    let text = """
        ; what all jobs share
        [global]
        filename=/dev/vg/disk
        ioengine=libaio
        bs=16k

        # comments of both kinds
        [first]
        rw = randrw
        rwmixread=70
        iodepth=32
        size=1g
        number_ios=1000
        group_reporting

        [second]
        readwrite=write
        blocksize=128KiB
        verify=md5
        runtime=600ms
        time_based=1
        ring-pages=4
        direct=1
        protocol=x86_32
        """
    let jobs = try JobFile.parse(text, file: "x.fio")
    try #require(jobs.count == 2)
    #expect(jobs[0].name == "first")
    #expect(jobs[0].volume == "/dev/vg/disk")
    #expect(jobs[0].engine == "libaio")
    #expect(jobs[0].pattern == .randrw)
    #expect(jobs[0].readPercent == 70)
    #expect(jobs[0].blockBytes == 16_384)
    #expect(jobs[0].depth == 32)
    #expect(jobs[0].sizeBytes == 1 << 30)
    #expect(jobs[0].numberOfIOs == 1000)
    #expect(jobs[1].pattern == .write)
    #expect(jobs[1].blockBytes == 131_072)
    #expect(jobs[1].verify == .md5)
    #expect(jobs[1].runtimeNanoseconds == 600_000_000)
    #expect(jobs[1].ringPages == 4)
    #expect(jobs[1].direct == true)
    #expect(jobs[1].abi == .x86_32)
    #expect(jobs[1].numberOfIOs == nil, "options of a section are its own")
}

@Test(arguments: [
    ("[a]\nfilename=x\nbs=4q", 3, "bs=4q: must be a size like 4096, 4k, 64m or 1g"),
    ("[a]\nfilename=x\nbs=100", 3, "bs=100: must be a multiple of 512 bytes, at most 16m"),
    (
        "[a]\nfilename=x\nbs=99999999999999999999k", 3,
        "bs=99999999999999999999k: must be a size like 4096, 4k, 64m or 1g"
    ),
    ("\n[global]\niodepth=0", 3, "iodepth=0: must be a number from 1 to 4096"),
    ("[a]\nfilename=x\nrw=trim", 3, "rw=trim: must be one of read, write, randread, randwrite, rw, randrw"),
    ("[a]\nfilename=x\nqueues=9", 3, "queues=9: must be a number from 1 to 8"),
    ("[a]\nfilename=x\nring_pages=3", 3, "ring_pages=3: must be 1, 2, 4, 8 or 16"),
    ("[a]\nfilename=x\nverify=sha1", 3, "verify=sha1: must be one of crc32c, md5"),
    ("[a]\nfilename=x\nwhatever=1", 3, "whatever=1: there is no such option"),
    ("[a]\nfilename=x\nruntime=0", 3, "runtime=0: must be a time above 0 like 10, 600ms, 5m or 1h"),
    ("[a]\nfilename=x\ndirect", 3, "direct: must be key=value"),
    ("[a]\nfilename=x\ndirect=yes", 3, "direct=yes: must be 0 or 1"),
    (
        "[a]\nfilename=x\nkill_every=often", 3,
        "kill_every=often: must be milliseconds, from 1 to 3600000"
    ),
    ("[a\nfilename=x", 1, "a section must be written [name]"),
    ("[]", 1, "a section must be written [name]"),
    ("bs=4k", 1, "must follow a [section]"),
    ("; nothing\n[global]\nbs=4k", 1, "there is no job section"),
    ("", 1, "there is no job section"),
    ("[global]\nbs=4k\n[a]\nrw=read", 3, "[a]: volume is required: a device, a file, or null"),
    ("[a]\nfilename=null\nverify=md5", 1, "[a]: verify needs a volume that keeps what is written"),
    ("[a]\nfilename=x\nruntime=1\nnumber_ios=5", 1, "[a]: number-ios excludes runtime"),
])
func whatMakesNoSenseIsNamedWithItsLine(_ text: String, _ line: Int, _ rule: String) {
    let error = #expect(throws: JobFileError.self) { try JobFile.parse(text, file: "x.fio") }
    #expect(error?.description == "x.fio:\(line): \(rule)")
}

@Test(arguments: [
    ("4096", 4096), ("4k", 4096), ("4K", 4096), ("4kb", 4096), ("4kib", 4096), ("1m", 1 << 20), ("2g", 2 << 30),
])
func sizesHaveFiosUnits(_ text: String, _ bytes: UInt64) throws {
    #expect(try JobOptions.bytes(text) == bytes)
}

@Test(arguments: [1, 2, 3, 7, 64, 1000, 4097] as [UInt32])
func aRandomOrderVisitsEverythingOnce(_ bound: UInt32) {
    let order = RandomOrder(below: bound, seed: 7)
    let visited = (0..<bound).map { order.number(at: $0) }
    #expect(Set(visited) == Set(0..<bound))
    if bound > 64 { #expect(visited != visited.sorted()) }
}

private func disk(_ sectors: UInt64 = 1 << 20, indirect: UInt16 = 256, readOnly: Bool = false) -> FrontendDisk {
    FrontendDisk(
        capacity: Sector(sectors), sectorSize: 512, isReadOnly: readOnly, offersFlush: true, offersBarrier: false,
        offersDiscard: false, offersPersistent: false, indirectSegments: indirect)
}

@Test func lanesShareTheVolumeWithoutOverlap() throws {
    var options = JobOptions()
    options.volume = "x"
    options.blockBytes = 8192
    options.sizeBytes = 8192 * 103
    options.depth = 10
    let plan = try JobPlan(options, disk(), lanes: 4)
    let sectors = (0..<4).flatMap { lane in (0..<plan.blocks(lane)).map { plan.sector($0, lane) } }
    #expect(sectors.sorted() == (0..<103).map { $0 * 16 })
    #expect((0..<4).map { plan.depth($0) } == [3, 3, 2, 2])
    #expect((0..<4).reduce(0) { $0 + plan.numberOfIOs($1) } == 103)
}

@Test(arguments: [
    (4096, 256, 1), (45_056, 0, 1), (131_072, 0, 3), (131_072, 16, 2), (1 << 20, 256, 1), (2 << 20, 256, 2),
])
func largeBlocksAreSeveralRequests(_ bytes: Int, _ indirect: UInt16, _ pieces: Int) throws {
    var options = JobOptions()
    options.blockBytes = bytes
    #expect(try JobPlan(options, disk(indirect: indirect), lanes: 1).pieces == pieces)
}

@Test func whatTheDiskCannotDoIsRefused() {
    var options = JobOptions()
    options.pattern = .randwrite
    #expect(throws: LoopbackError.self) { try JobPlan(options, disk(readOnly: true), lanes: 1) }
    options.pattern = .read
    options.sizeBytes = 1 << 30
    #expect(throws: LoopbackError.self) { try JobPlan(options, disk(1000), lanes: 1) }
    options.sizeBytes = nil
    #expect(throws: LoopbackError.self) { try JobPlan(options, disk(8), lanes: 2) }
}
