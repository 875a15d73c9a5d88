import Glibc
import Testing

@testable import LiveXen

@Suite struct MissingPartTests {
    @Test(arguments: [
        ("/dev/xen/gntdev", ENOENT, true, "/dev/xen/gntdev is missing: load its module (modprobe xen-gntdev)"),
        ("/dev/xen/evtchn", ENXIO, true, "/dev/xen/evtchn is missing: load its module (modprobe xen-evtchn)"),
        (
            "/dev/xen/evtchn", EPERM, true,
            "/dev/xen/evtchn may not be opened: run as root, or give this user the device"
        ),
        ("/dev/xen/gntdev", EMFILE, true, "open /dev/xen/gntdev: Too many open files"),
    ]) func `names the thing and the remedy`(path: String, code: Int32, isOnXen: Bool, text: String) {
        #expect("\(MissingPart(path, code, isOnXen: isOnXen))" == text)
    }

    @Test func `without Xen no module helps`() {
        let text = "\(MissingPart("/dev/xen/gntdev", ENOENT, isOnXen: false))"
        #expect(text.contains("does not run under Xen") && !text.contains("modprobe"))
    }

    @Test(.enabled(if: unsafe access("/dev/xen/gntdev", F_OK) != 0)) func `a machine without the devices is refused`() {
        #expect(throws: MissingPart.self) { _ = try LivePlatform() }
    }
}

@Suite struct XenstoreAddressTests {
    @Test func `xenstored's socket comes before the kernel's device`() {
        #expect(
            XenstoreAddress.candidates(path: nil, directory: nil) == [
                .socket("/run/xenstored/socket"), .device("/dev/xen/xenbus"), .device("/proc/xen/xenbus"),
            ])
        #expect(XenstoreAddress.candidates(path: nil, directory: "/x").first == .socket("/x/socket"))
    }

    @Test func `a path that was given is the only one, whatever it is`() {
        #expect(XenstoreAddress.candidates(path: "/dev/null", directory: "/x") == [.device("/dev/null")])
        #expect(XenstoreAddress.candidates(path: "/no/such", directory: "/x") == [.socket("/no/such")])
    }

    @Test func `every place that was tried is named`() {
        #expect {
            _ = try XenstoreAddress.connect([.socket("/no/such/socket"), .device("/no/such/device")])
        } throws: { error in
            "\(error)" == "no xenstore (connect /no/such/socket: No such file or directory; "
                + "open /no/such/device: No such file or directory): start xenstored (systemctl start xen)"
        }
    }

    @Test func `a device that is no xenbus is refused`() {
        #expect(throws: MissingPart.self) { _ = try XenstoreAddress.connect([.device("/dev/null")]) }
    }
}
