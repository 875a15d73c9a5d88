import CStoreTrap
package import Descriptors
import Glibc
import SharedRing

/// How a process is killed: after so many events, which are calls through the seams and, if they are watched, single stores
/// into the ring and the journal.
///
/// The process' code runs on to the end of its step, because nothing can end it. But from the kill on its calls have no
/// effect, and what it stored is taken back.
@safe package final class KillSwitch {
    private let trap: UnsafeMutablePointer<store_trap>
    /// What else may happen in the world while a call is being made.
    var interlude: () -> Void = {}

    package init() {
        unsafe trap = .allocate(capacity: 1)
        unsafe trap.initialize(to: store_trap())
    }

    deinit { unsafe trap.deallocate() }

    /// Whether single stores can be watched on this machine.
    package static var watchesStores: Bool { store_trap_can_watch() != 0 }

    package var isHit: Bool { unsafe trap.pointee.is_hit != 0 }
    var isArmed: Bool { unsafe trap.pointee.left > 0 }

    package func arm(after events: Int, watchingStores: Bool) {
        unsafe trap.pointee.left = events
        unsafe trap.pointee.watches_stores = watchingStores ? 1 : 0
    }

    /// Runs a piece of the process' code that stores into this memory; takes back what came after the kill.
    package func run<Result>(_ memory: Persistent, _ body: () -> Result) -> Result {
        guard isArmed, unsafe memory.enter(trap) else { return body() }
        let result = body()
        unsafe store_trap_leave(trap)
        if isHit { memory.restore() }
        return result
    }

    /// So many calls are about to be made, one after the other: how many of them are before the kill.
    func pass(_ calls: Int = 1) -> Int {
        if !isHit { interlude() }
        return unsafe isArmed || isHit ? store_trap_pass(trap, calls) : calls
    }

    /// One queue's memory that outlives the process: the journal, and the ring, which the process maps somewhere.
    @safe package final class Persistent {
        let journal: MappedFile
        private let ring: UnsafeMutableRawBufferPointer
        private var mapped: UnsafeMutableRawPointer?
        private let shadow: UnsafeMutableRawPointer

        package init(journal: MappedFile, ring: UnsafeMutableRawBufferPointer) {
            self.journal = journal
            unsafe self.ring = ring
            unsafe shadow = .allocate(byteCount: journal.count + ring.count, alignment: 64)
        }

        deinit { unsafe shadow.deallocate() }

        fileprivate func enter(_ trap: UnsafeMutablePointer<store_trap>) -> Bool {
            // A kill before the ring is mapped finds it as it is.
            if let base = unsafe ring.baseAddress { unsafe memcpy(shadow + journal.count, base, ring.count) }
            let regions = unsafe [
                region(journal.base, journal.count, shadow), region(mapped, ring.count, shadow + journal.count),
            ]
            return unsafe store_trap_enter(trap, regions) != 0
        }

        private func region(
            _ base: UnsafeMutableRawPointer?, _ length: Int, _ shadow: UnsafeMutableRawPointer
        ) -> store_trap_region {
            unsafe store_trap_region(
                base: base?.assumingMemoryBound(to: UInt8.self), length: length,
                shadow: shadow.assumingMemoryBound(to: UInt8.self))
        }

        /// The process mapped the ring here, or, nil, will do so.
        func mapped(at base: UnsafeMutableRawPointer?, _ killSwitch: KillSwitch) {
            unsafe mapped = unsafe base
            guard unsafe base != nil, killSwitch.isArmed else { return }
            unsafe store_trap_add(killSwitch.trap, 1, base, ring.count, shadow + journal.count)
        }

        fileprivate func restore() {
            unsafe memcpy(journal.base, shadow, journal.count)
            if let base = unsafe ring.baseAddress { unsafe memcpy(base, shadow + journal.count, ring.count) }
        }
    }
}
