internal import CLinux
internal import CXen
internal import Descriptors
internal import XenWire

/// The calls of /dev/xen/gntdev, one each, with their answers as the kernel gives them: 0 or a negative errno.
protocol GrantCalls: AnyObject {
    /// Notes references of a domain for `map`; nothing has been asked of Xen yet.
    func record(_ references: [GrantReference], of domain: DomainID, index: inout UInt64) -> Int32
    /// Maps all that one `record` has noted, or nothing. Works once per `record`.
    func map(_ index: UInt64, pages: Int, writable: Bool, memory: inout UnsafeMutableRawPointer?) -> Int32
    func unmap(_ memory: UnsafeMutableRawPointer, pages: Int)
    /// Ends a `record`, after `unmap` if it was mapped.
    func forget(_ index: UInt64, pages: Int)
    /// Copies; the segments' statuses mean something only if the answer is 0.
    func copy(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int) -> Int32
    /// Puts so many new pages at `memory` and grants them to `domain` as long as this value lives; writes their references.
    func offer(
        _ memory: UnsafeMutableRawPointer, to domain: DomainID, _ references: UnsafeMutablePointer<UInt32>, count: Int
    ) -> Int32
}

/// /dev/xen/gntdev of the running kernel. One descriptor per queue: the module keeps a descriptor's maps in one list
/// under one lock.
final class GrantDevice: GrantCalls {
    static let path = "/dev/xen/gntdev"
    /// Grants this domain's pages to others. Not every kernel has it.
    private static let offeringPath = "/dev/xen/gntalloc"

    private let file: OwnedDescriptor
    private var offers: OwnedDescriptor?

    init() throws(Fault) {
        // The path is only read.
        file = try OwnedDescriptor(unsafe linux_open(Self.path, O_RDWR, 0), "open \(Self.path)")
    }

    func record(_ references: [GrantReference], of domain: DomainID, index: inout UInt64) -> Int32 {
        let numbers = references.map(\.rawValue)
        // The call reads `numbers` and fills `index`.
        return unsafe linux_grants_record(
            file.number, UInt32(domain.rawValue), numbers, UInt32(truncatingIfNeeded: numbers.count), &index)
    }

    func map(_ index: UInt64, pages: Int, writable: Bool, memory: inout UnsafeMutableRawPointer?) -> Int32 {
        unsafe linux_grants_map(file.number, index, UInt32(truncatingIfNeeded: pages), writable ? 1 : 0, &memory)
    }

    func unmap(_ memory: UnsafeMutableRawPointer, pages: Int) {
        unsafe linux_grants_unmap(memory, UInt32(truncatingIfNeeded: pages))
    }

    func forget(_ index: UInt64, pages: Int) {
        // Fails only for what was not recorded.
        _ = linux_grants_forget(file.number, index, UInt32(truncatingIfNeeded: pages))
    }

    func copy(_ segments: UnsafeMutablePointer<xen_grant_copy_segment>, count: Int) -> Int32 {
        unsafe linux_grants_copy(file.number, segments, UInt32(truncatingIfNeeded: count))
    }

    func offer(
        _ memory: UnsafeMutableRawPointer, to domain: DomainID, _ references: UnsafeMutablePointer<UInt32>, count: Int
    ) -> Int32 {
        do throws(Fault) {
            // The path is only read.
            let file = try OwnedDescriptor(
                unsafe linux_open(Self.offeringPath, O_RDWR, 0), "open \(Self.offeringPath)")
            let result = unsafe linux_grants_offer(
                file.number, domain.rawValue, memory, references, UInt32(truncatingIfNeeded: count))
            // Else the pages that were allocated go with the descriptor.
            if result == 0 { offers = consume file }
            return result
        } catch {
            return -error.code
        }
    }
}
