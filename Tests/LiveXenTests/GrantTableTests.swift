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
        for index in 0..<count {
            let source = unsafe UInt32(truncatingIfNeeded: segments[index].source)
            let isGranted = granted.contains(source)
            unsafe segments[index].status = Int16(isGranted ? XEN_GNTST_okay : XEN_GNTST_bad_gntref)
        }
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
