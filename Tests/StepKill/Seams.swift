import CXen
import Glibc
import SharedRing

/// An event channel: a bit in the region.
final class RegionChannel: EventChannel {
    private let region: Region
    private let number: Int
    var swallowsEvents = false

    init(_ region: Region, _ number: Int) {
        self.region = region
        self.number = number
    }

    var descriptor: Int32 { -1 }
    func notify() { if !swallowsEvents { region.notify(number) } }
    func drain() -> Bool { false }
    func unmask() {}
}

/// Time that passes with every look.
final class RegionClock: Clock, @unchecked Sendable {
    // Of one thread.
    private var time: UInt64 = 0

    func now() -> UInt64 {
        time += 1000
        return time
    }
}

/// Grant copies, as a hypervisor does them.
enum Segments {
    /// - Parameters:
    ///   - segments: `count` of them, with their local sides.
    ///   - page: what a reference stands for.
    @unsafe static func copy(
        _ segments: UnsafeMutablePointer<xen_grant_copy_segment>, _ count: Int, _ direction: CopyDirection,
        _ page: (UInt32) -> UnsafeMutableRawBufferPointer?
    ) -> Int {
        var failed = 0
        for index in 0..<count {
            let isDone = unsafe copy(segments[index], direction, page)
            unsafe segments[index].status = Int16(isDone ? XEN_GNTST_okay : XEN_GNTST_general_error)
            if !isDone { failed += 1 }
        }
        return failed
    }

    @unsafe static func copy(
        _ segment: xen_grant_copy_segment, _ direction: CopyDirection,
        _ page: (UInt32) -> UnsafeMutableRawBufferPointer?
    ) -> Bool {
        let isInbound = direction == .fromGuest
        let (foreign, local) = isInbound ? (segment.source, segment.dest) : (segment.dest, segment.source)
        let (offset, length) = (Int(foreign >> 32 & 0xffff), Int(segment.length))
        guard let page = unsafe page(UInt32(truncatingIfNeeded: foreign)), let base = page.baseAddress,
            let memory = unsafe UnsafeMutableRawPointer(bitPattern: UInt(local)), offset + length <= page.count
        else { return false }
        unsafe memcpy(isInbound ? memory : base + offset, isInbound ? base + offset : memory, length)
        return true
    }
}
