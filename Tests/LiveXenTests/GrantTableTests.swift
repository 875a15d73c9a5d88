import CXen
import Descriptors
import Glibc
import SharedRing
import Testing
import XenWire

@testable import LiveXen

/// /dev/xen/gntdev as gntdev.c behaves: a map is all or nothing, its failure is EINVAL whatever the reason, and a copy
/// that fails as a whole leaves the statuses as they were.
private final class ModelGntdev: GrantCalls {
    /// References that the guest has granted.
    var granted: Set<UInt32>
    /// Pages that Xen has map handles for.
    var handles = 1000
    /// Answers to the next copies; 0 once they are used up.
    var copyResults: [Int32] = []
    private(set) var copies: [Int] = []
    private(set) var recorded: [UInt64: [UInt32]] = [:]
    private(set) var mapped = 0
    private var nextIndex: UInt64 = 0x10000
    /// The domain that the process belongs to, and what it has granted to whom: from reference 100 on.
    var own = DomainID(0)
    var offerResult: Int32 = 0
    private(set) var offered: (base: UInt, pages: Int, domain: DomainID)?
    /// The segments of the last copy.
    private(set) var last: [xen_grant_copy_segment] = []

    init(granted: Set<UInt32>) { self.granted = granted }

    func record(_ references: [GrantReference], of domain: DomainID, index: inout UInt64) -> Int32 {
        guard !references.isEmpty else { return -EINVAL }
        index = nextIndex
        nextIndex += UInt64(references.count) * 4096
        recorded[index] = references.map(\.rawValue)
        return 0
    }

    func map(_ index: UInt64, pages: Int, writable: Bool, memory: inout UnsafeMutableRawPointer?) -> Int32 {
        guard let references = recorded[index], references.count == pages, granted.isSuperset(of: references),
            mapped + pages <= handles
        else { return -EINVAL }
        unsafe memory = UnsafeMutableRawPointer.allocate(byteCount: pages * 4096, alignment: 4096)
        mapped += pages
        return 0
    }

    func unmap(_ memory: UnsafeMutableRawPointer, pages: Int) {
        unsafe memory.deallocate()
        mapped -= pages
    }

    func forget(_ index: UInt64, pages: Int) {
        #expect(recorded.removeValue(forKey: index)?.count == pages, "forgets what was recorded, once")
    }

    func copy(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int) -> Int32 {
        copies.append(count)
        let result = copyResults.isEmpty ? 0 : copyResults.removeFirst()
        guard result == 0 else { return result }
        unsafe last = Array(UnsafeBufferPointer(start: segments, count: count))
        for index in 0..<count { unsafe segments[index].status = status(segments[index]) }
        return 0
    }

    /// Carries out what names the process' own pages on both sides, and judges the rest.
    private func status(_ segment: xen_grant_copy_segment) -> Int16 {
        if let source = unsafe ownPage(segment.source), let target = unsafe ownPage(segment.dest),
            segment.flags == UInt16(XEN_GNTCOPY_source_gref | XEN_GNTCOPY_dest_gref)
        {
            guard offered?.domain == own else { return Int16(XEN_GNTST_permission_denied) }
            unsafe target.copyMemory(from: source, byteCount: Int(segment.length))
            return Int16(XEN_GNTST_okay)
        }
        let isGranted = granted.contains(UInt32(truncatingIfNeeded: segment.source))
        return Int16(isGranted ? XEN_GNTST_okay : XEN_GNTST_bad_gntref)
    }

    /// What `reference | offset << 32 | DOMID_SELF << 48` means.
    private func ownPage(_ side: UInt64) -> UnsafeMutableRawPointer? {
        let (reference, offset) = (UInt(side & 0xFFFF_FFFF), UInt(side >> 32 & 0xFFFF))
        guard let offered, side >> 48 == 0x7FF0, reference >= 100, reference < 100 + UInt(offered.pages) else {
            return nil
        }
        return unsafe UnsafeMutableRawPointer(bitPattern: offered.base + (reference - 100) * 4096 + offset)
    }

    func offer(
        _ memory: UnsafeMutableRawPointer, to domain: DomainID, _ references: UnsafeMutablePointer<UInt32>, count: Int
    ) -> Int32 {
        guard offerResult == 0 else { return offerResult }
        offered = (UInt(bitPattern: memory), count, domain)
        for index in 0..<count { unsafe references[index] = 100 + UInt32(index) }
        return 0
    }
}

private let domain = DomainID(5)

private func references(_ numbers: ClosedRange<UInt32>) -> [GrantReference] { numbers.map { GrantReference($0) } }

@Suite struct MappingTests {
    @Test func `a mapping ends with its value, and the kernel forgets it`() throws {
        let device = ModelGntdev(granted: [1, 2, 3, 4])
        do {
            let mapping = try LiveGrantTable(device).map(references(1...4), of: domain, writable: true)
            #expect(mapping.pages == 4 && device.mapped == 4)
        }
        #expect(device.mapped == 0 && device.recorded.isEmpty)
    }

    @Test(arguments: 1...4 as ClosedRange<UInt32>) func `the bad one among several references is named`(bad: UInt32) {
        let device = ModelGntdev(granted: Set(1...4).subtracting([bad]))
        #expect {
            _ = try LiveGrantTable(device).map(references(1...4), of: domain, writable: true)
        } throws: { error in
            "\(error)" == "map grant \(bad) of domain 5 (the guest has not granted it): Invalid argument"
        }
        #expect(device.mapped == 0 && device.recorded.isEmpty, "nothing stays behind")
    }

    @Test func `references that are good one by one are not blamed for a lack of map handles`() {
        let device = ModelGntdev(granted: Set(1...4))
        device.handles = 2
        #expect(throws: Fault("map grants 1, 2, 3, 4 of domain 5", errno: EINVAL)) {
            _ = try LiveGrantTable(device).map(references(1...4), of: domain, writable: true)
        }
        device.handles = 0
        #expect {
            _ = try LiveGrantTable(device).map(references(1...1), of: domain, writable: true)
        } throws: { error in
            "\(error)".contains("gnttab_max_maptrack_frames")
        }
        #expect(device.mapped == 0 && device.recorded.isEmpty)
    }

    @Test func `no references at all are a fault and nothing else`() {
        #expect(throws: Fault.self) {
            _ = try LiveGrantTable(ModelGntdev(granted: [])).map([], of: domain, writable: true)
        }
    }
}

@Suite struct CopyTests {
    /// Statuses that no call has written, which must not be believed.
    private static let garbage: Int16 = 77

    private func copy(_ device: ModelGntdev, _ numbers: ClosedRange<UInt32>) -> (failures: Int, statuses: [Int16]) {
        var segments = numbers.map { number in
            xen_grant_copy_segment(
                source: UInt64(number), dest: 0, length: 512, flags: UInt16(XEN_GNTCOPY_source_gref),
                status: Self.garbage, pad: 0)
        }
        let failures = unsafe segments.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            // The model takes the addresses for numbers and copies nothing.
            return unsafe LiveGrantTable(device).copy(base, count: buffer.count, .fromGuest)
        }
        return (failures, segments.map(\.status))
    }

    @Test func `a batch is one call, and a refused segment fails alone`() {
        let device = ModelGntdev(granted: [1, 2, 4])
        let (failures, statuses) = copy(device, 1...4)
        #expect(failures == 1)
        #expect(statuses == [0, 0, Int16(XEN_GNTST_bad_gntref), 0])
        #expect(device.copies == [4])
    }

    @Test(arguments: [EFAULT, ENOMEM, EINVAL, EINTR])
    func `after a call that failed every segment is copied again, alone`(code: Int32) {
        let device = ModelGntdev(granted: [1, 2, 4])
        device.copyResults = [-code]
        let (failures, statuses) = copy(device, 1...4)
        #expect(failures == 1)
        #expect(statuses == [0, 0, Int16(XEN_GNTST_bad_gntref), 0])
        #expect(device.copies == [4, 1, 1, 1, 1])
    }

    @Test func `a segment whose own call fails has failed, whatever its status says`() {
        let device = ModelGntdev(granted: [1, 2, 3, 4])
        device.copyResults = [-ENOMEM, 0, -EFAULT, 0, -ENOMEM]
        let (failures, statuses) = copy(device, 1...4)
        #expect(failures == 2)
        #expect(statuses == [0, Int16(XEN_GNTST_general_error), 0, Int16(XEN_GNTST_general_error)])
    }
}

/// The tests' own memory.
@safe private final class Pages {
    let base: UnsafeMutableRawPointer
    init(_ count: Int) { unsafe base = .allocate(byteCount: count * 4096, alignment: 4096) }
    deinit { unsafe base.deallocate() }
    var address: UInt64 { unsafe UInt64(UInt(bitPattern: base)) }
}

@Suite struct FavouredMemoryTests {
    private static let pages = 4
    private static let bothSides = UInt16(XEN_GNTCOPY_source_gref | XEN_GNTCOPY_dest_gref)
    private let device = ModelGntdev(granted: [1])
    private let memory = Pages(FavouredMemoryTests.pages)

    /// A segment from the guest's page 1 to `offset` of the memory, or the other way around, as the device gets it.
    private func copied(
        _ table: LiveGrantTable, _ offset: Int, _ length: UInt16, _ direction: CopyDirection
    ) -> xen_grant_copy_segment? {
        let local = unsafe memory.base + offset
        var segment =
            direction == .fromGuest
            ? unsafe xen_grant_copy_segment.fromGuest(domain, GrantReference(1), offset: 8, length: length, to: local)
            : unsafe xen_grant_copy_segment.toGuest(domain, GrantReference(1), offset: 8, length: length, from: local)
        // One segment; the model does not follow addresses.
        _ = unsafe table.copy(&segment, count: 1, direction)
        return device.last.first
    }

    private func favouring(by backend: DomainID = DomainID(0)) -> LiveGrantTable {
        let table = LiveGrantTable(device)
        unsafe table.favour(memory.base, pages: Self.pages, of: backend)
        return table
    }

    @Test func `copies name the process' own pages by reference`() {
        let table = favouring()
        let received = copied(table, 4096 + 100, 3996, .fromGuest)
        #expect(received?.dest == Self.name(101, 100))
        #expect(received?.flags == Self.bothSides)
        let sent = copied(table, 3 * 4096, 4096, .toGuest)
        #expect(sent?.source == Self.name(103, 0))
        #expect(sent?.flags == Self.bothSides)
    }

    /// As Xen reads it: DOMID_SELF is 0x7FF0.
    private static func name(_ reference: UInt64, _ offset: UInt64) -> UInt64 {
        reference | offset << 32 | UInt64(0x7FF0) << 48
    }

    /// So that their grants are in use; and given back with the table.
    @Test func `the pages are mapped once more as long as the table lives`() {
        device.granted = [100, 101, 102, 103]
        do {
            let table = favouring()
            #expect(device.mapped == Self.pages)
            withExtendedLifetime(table) {}
        }
        #expect(device.mapped == 0 && device.recorded.isEmpty)
    }

    private static let outside: [(Int, UInt16)] = [(4196, 3997), (16_384, 1), (-4096, 1), (16_383, 2)]

    @Test(arguments: FavouredMemoryTests.outside)
    func `what does not lie in one of these pages goes by address`(offset: Int, length: UInt16) {
        let table = favouring()
        for direction in [CopyDirection.fromGuest, .toGuest] {
            let segment = copied(table, offset, length, direction)
            let local = memory.address &+ UInt64(bitPattern: Int64(offset))
            #expect((direction == .fromGuest ? segment?.dest : segment?.source) == local)
            #expect(segment?.flags == UInt16(direction == .fromGuest ? XEN_GNTCOPY_source_gref : XEN_GNTCOPY_dest_gref))
        }
    }

    @Test(arguments: ["no gntalloc", "another domain's number", "a kernel that takes no two references"])
    func `where that cannot be, all goes by address`(reason: String) {
        switch reason {
        case "no gntalloc": device.offerResult = -ENOENT
        case "another domain's number": device.own = DomainID(7)
        default: device.copyResults = [-EINVAL]
        }
        let segment = copied(favouring(), 0, 64, .fromGuest)
        #expect(segment?.dest == memory.address)
        #expect(segment?.flags == UInt16(XEN_GNTCOPY_source_gref))
    }
}
