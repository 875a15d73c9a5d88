import CXenReference
import Testing

@Suite struct DeviceCallTests {
    /// What the shims are compiled with, against Xen's own copy and the numbers that running kernels answer to.
    @Test(arguments: [
        ("IOCTL_GNTDEV_MAP_GRANT_REF", Int64(0x0018_4700)), ("IOCTL_GNTDEV_UNMAP_GRANT_REF", 0x0010_4701),
        ("IOCTL_GNTDEV_GRANT_COPY", 0x0010_4708), ("IOCTL_EVTCHN_BIND_INTERDOMAIN", 0x0008_4501),
        ("IOCTL_EVTCHN_NOTIFY", 0x0004_4504), ("IOCTL_EVTCHN_RESET", 0x4505),
        ("IOCTL_EVTCHN_RESTRICT_DOMID", 0x0002_4506),
    ]) func callNumbers(name: String, number: Int64) {
        let linux = unsafe ConstantTests.table(reference_device_calls_linux())
        let xen = unsafe ConstantTests.table(reference_device_calls_xen())
        #expect(linux[name] == number)
        #expect(xen[name] == number)
        #expect(linux.count == 7 && xen.count == 7)
    }
}
