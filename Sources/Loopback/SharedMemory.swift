internal import CLinux
internal import CXen
internal import Descriptors
internal import Glibc

/// A memfd, mapped readable and writable as a whole.
@safe final class SharedMemory: Sendable {
    private let memory: OwnedDescriptor
    // Shared by design; whoever looks at it uses CXen's atomics or owns the part that it looks at.
    nonisolated(unsafe) let base: UnsafeMutableRawPointer
    let bytes: Int

    /// New memory of zeros.
    convenience init(name: String, bytes: Int) throws(Fault) {
        // memfd_create only reads the name.
        let number = unsafe linux_memory(name, bytes)
        try self.init(mapping: OwnedDescriptor(number, "memfd \(name)"), bytes: bytes)
    }

    /// Memory that another process made.
    init(mapping descriptor: consuming OwnedDescriptor, bytes: Int) throws(Fault) {
        // A fresh mapping, placed by the kernel, that this object alone unmaps.
        let base = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.number, 0)
        guard let base = unsafe base, unsafe base != MAP_FAILED else { throw Fault("mmap of a domain", errno: errno) }
        unsafe self.base = base
        self.bytes = bytes
        memory = descriptor
    }

    deinit {
        unsafe munmap(base, bytes)
    }

    /// For passing to another process.
    var descriptor: Int32 { memory.number }

    /// Maps single frames next to each other, at a new address.
    func map(frames: [UInt32], writable: Bool) throws(Fault) -> UnsafeMutableRawPointer {
        let size = frames.count * Int(XEN_PAGE_SIZE_BYTES)
        // Reserve first, so that the fixed mappings below replace nothing but this reservation.
        let area = unsafe mmap(nil, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let area = unsafe area, unsafe area != MAP_FAILED else { throw Fault("mmap of grants", errno: errno) }
        for (index, frame) in frames.enumerated() {
            let page = unsafe mmap(
                area + index * Int(XEN_PAGE_SIZE_BYTES), Int(XEN_PAGE_SIZE_BYTES),
                writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, descriptor,
                off_t(frame) << off_t(XEN_PAGE_SHIFT_BITS))
            guard unsafe page != MAP_FAILED else {
                let code = errno
                unsafe munmap(area, size)
                throw Fault("mmap of a grant", errno: code)
            }
        }
        return unsafe area
    }

    /// Ends what `map(frames:writable:)` made.
    static func unmap(_ base: UnsafeMutableRawPointer, pages: Int) {
        // The caller made the mapping and ends it once (GrantMapping's contract).
        unsafe munmap(base, pages * Int(XEN_PAGE_SIZE_BYTES))
    }
}
