internal import CLinux
internal import Descriptors
internal import Glibc

/// The calls of /dev/xen/xenbus, with their answers as the kernel gives them: a count or a negative errno.
protocol StreamCalls: AnyObject {
    var descriptor: Int32 { get }
    func read(_ buffer: UnsafeMutableRawBufferPointer) -> Int
    func write(_ bytes: UnsafeRawBufferPointer) -> Int
    /// Waits for something to read; the events there are, 0 when the time is over.
    func wait(milliseconds: Int32) -> Int32
}

/// The kernel's own connection to xenstore, lent to a process.
final class XenbusDevice: StreamCalls {
    private let file: OwnedDescriptor

    init(path: String) throws(Fault) {
        // The path is only read.
        file = try OwnedDescriptor(unsafe linux_open(path, O_RDWR | O_NONBLOCK, 0), "open \(path)")
    }

    var descriptor: Int32 { file.number }

    func read(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        unsafe linux_device_read(file.number, buffer.baseAddress, buffer.count)
    }

    func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        unsafe linux_device_write(file.number, bytes.baseAddress, bytes.count)
    }

    func wait(milliseconds: Int32) -> Int32 { linux_poll_one(file.number, Int16(POLLIN), milliseconds) }
}
