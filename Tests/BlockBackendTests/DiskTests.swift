import BlockBackend
import Testing
import Xenbus
import Xenstore

struct DiskSettingsTests {
    static let plain = ["mode": "w", "params": "/dev/vg/disk"]

    static func with(_ changes: [String: String?]) -> NodeValues {
        var texts = plain
        for (key, value) in changes { texts[key] = value }
        return nodes(texts)
    }

    static func refused(_ changes: [String: String?]) -> String? {
        do throws(KeyRefusal) {
            _ = try DiskSettings(with(changes))
            return nil
        } catch {
            return error.key
        }
    }

    @Test func `what libxl writes for a plain disk`() throws {
        let settings = try DiskSettings(Self.with(["device-type": "disk", "removable": "0", "discard-enable": "1"]))
        #expect(settings.volume == "/dev/vg/disk")
        #expect(settings.isWritable && settings.allowsDiscard && settings.pausesWhenFull)
        #expect(!settings.isCDROM && !settings.isRemovable)
    }

    @Test(arguments: [("r", false), ("w", true), ("w!", true), ("r!", false)])
    func `mode says who may write`(_ mode: String, _ writable: Bool) throws {
        #expect(try DiskSettings(Self.with(["mode": mode])).isWritable == writable)
    }

    @Test(arguments: [nil, "", "x", "W", "w\0", "ww"] as [String?])
    func `a mode must be there and known`(_ mode: String?) {
        #expect(Self.refused(["mode": mode]) == "mode")
    }

    @Test func `discards need the permission to write and nobody who forbids them`() throws {
        #expect(try DiskSettings(Self.with(["discard-enable": "0"])).allowsDiscard == false)
        #expect(try DiskSettings(Self.with(["mode": "r", "discard-enable": "1"])).allowsDiscard == false)
        #expect(try DiskSettings(Self.with([:])).allowsDiscard == true)
    }

    @Test(arguments: [
        ("device-type", "floppy"), ("removable", "2"), ("discard-enable", "yes"), ("write-space-policy", "stop"),
        ("params", ""), ("params", "qcow2:/x"), ("params", "raw:"), ("physical-device", "fd"),
        ("physical-device", "fd:zz"), ("physical-device", "+1:2"), ("physical-device", "1:2:3"),
        ("physical-device-path", ""), ("physical-device-path", "a\0b"),
        ("physical-device-path", String(repeating: "x", count: 4096)),
    ])
    func `a bad key is refused by its name`(_ key: String, _ text: String) {
        #expect(Self.refused([key: text]) == key)
    }

    @Test func `something must name a volume`() {
        #expect(Self.refused(["params": nil]) == "params")
    }

    @Test(
        arguments: [
            (["params": "raw:/x"], "/x"), (["params": "aio:/x:y"], "/x:y"), (["params": "phy:/dev/x"], "/dev/x"),
            (["params": "/odd:name"], "/odd:name"), (["params": "vg/lv"], "vg/lv"), (["params": "null"], "null"),
            (["physical-device": "fd:1a"], "/dev/block/253:26"),
            (["physical-device": "fd:1a", "physical-device-path": "/dev/dm-26"], "/dev/dm-26"),
        ] as [([String: String], String)])
    func `the script's word comes before the toolstack's`(_ keys: [String: String], _ volume: String) throws {
        #expect(try DiskSettings(Self.with(keys.mapValues { $0 })).volume == volume)
    }

    @Test func `the policy for a full volume`() throws {
        #expect(try DiskSettings(Self.with(["write-space-policy": "error"])).pausesWhenFull == false)
        #expect(try DiskSettings(Self.with(["write-space-policy": "pause"])).pausesWhenFull == true)
    }
}

struct DiskDescriptionTests {
    static func keys(_ description: DiskDescription) -> [String: String] {
        Dictionary(uniqueKeysWithValues: description.keys.map { ($0.name, $0.value) })
    }

    @Test func `a plain writable disk`() {
        let keys = Self.keys(
            DiskDescription(capacity: 2048, sectorSize: 512, physicalBlock: 4096, isReadOnly: false))
        #expect(
            keys == [
                "sectors": "2048", "sector-size": "512", "physical-sector-size": "4096", "info": "0",
                "feature-flush-cache": "1",
            ])
    }

    @Test(arguments: [
        (false, false, false, "0"), (true, false, false, "1"), (false, true, false, "2"), (false, false, true, "4"),
        (true, true, true, "7"),
    ])
    func `info is made of three bits`(_ cdrom: Bool, _ removable: Bool, _ readOnly: Bool, _ info: String) {
        let description = DiskDescription(
            capacity: 8, sectorSize: 512, physicalBlock: 512, isReadOnly: readOnly, isCDROM: cdrom,
            isRemovable: removable)
        #expect(Self.keys(description)["info"] == info)
    }

    @Test(arguments: [
        (8, 512, 512, 8, 512), (9, 512, 4096, 9, 512), (16, 512, 4096, 16, 4096), (17, 4096, 4096, 16, 4096),
        (17, 4096, 512, 16, 4096), (7, 4096, 4096, 0, 4096), (0, 512, 4096, 0, 4096), (8, 512, 0, 8, 512),
        (8, 512, 1000, 8, 512), (8, 512, -4096, 8, 512),
    ])
    func `capacity and physical sector fit each other`(
        _ capacity: UInt64, _ sector: Int, _ physical: Int, _ sectors: UInt64, _ published: Int
    ) {
        let description = DiskDescription(
            capacity: capacity, sectorSize: sector, physicalBlock: physical, isReadOnly: false)
        #expect(description.sectors == sectors)
        #expect(description.physicalSectorSize == published)
    }

    @Test func `barriers only when asked for, and never on a read-only disk`() {
        func barrier(_ asked: Bool, readOnly: Bool) -> String? {
            Self.keys(
                DiskDescription(
                    capacity: 8, sectorSize: 512, physicalBlock: 512, isReadOnly: readOnly, offersBarrier: asked)
            )["feature-barrier"]
        }
        #expect(barrier(false, readOnly: false) == nil)
        #expect(barrier(true, readOnly: false) == "1")
        #expect(barrier(true, readOnly: true) == nil)
    }

    @Test(arguments: [true, false])
    func `discard keys come all together or not at all`(_ readOnly: Bool) {
        let keys = Self.keys(
            DiskDescription(
                capacity: 8, sectorSize: 512, physicalBlock: 512, isReadOnly: readOnly,
                discard: .init(granularity: 65536, alignment: 512)))
        #expect(keys["feature-discard"] == (readOnly ? nil : "1"))
        #expect(keys["discard-granularity"] == (readOnly ? nil : "65536"))
        #expect(keys["discard-alignment"] == (readOnly ? nil : "512"))
        #expect(keys["discard-secure"] == (readOnly ? nil : "0"))
    }

    @Test func `nothing that is not served is offered`() {
        let everything = DiskDescription(
            capacity: 8, sectorSize: 512, physicalBlock: 512, isReadOnly: false, offersBarrier: true,
            discard: .init(granularity: 512, alignment: 0))
        #expect(Self.keys(everything)["feature-persistent"] == nil)
    }
}
