import Descriptors
import Glibc
import Testing

@testable import Tap

/// With the kernel's own TAP devices; needs root.
@Suite(.serialized, .enabled(if: Isolation.isPossible, "SKIPPED: root and /dev/net/tun are needed"))
struct TapDeviceTests {
    /// Several queues are no invitation: the kernel lets every process join them.
    @Test(arguments: [1, 4]) func `a device that somebody serves is not taken over`(queues: Int) throws {
        try Isolation.run {
            let theirs = try TapDevice("vif5.0", queues: queues)
            #expect {
                _ = try TapDevice("vif5.0", queues: queues)
            } throws: { error in
                (error as? Fault)?.code == EBUSY && "\(error)".contains("vif5.0")
            }
            try theirs.setCarrier(true)
        }
    }

    @Test func `a device that stayed behind is taken over`() throws {
        try Isolation.run {
            let index = try {
                let before = try TapDevice("vif5.0", queues: 2)
                try before.setPersistent(true)
                return before.index
            }()
            let after = try TapDevice("vif5.0", queues: 2)
            #expect(after.index == index)
            try after.setPersistent(false)
        }
    }

    @Test func `a device is found by its number after it was renamed, and nothing else is`() throws {
        try Isolation.run {
            let device = try TapDevice("vif5.0", queues: 2)
            #expect(TapDevice.name(ofIndex: device.index) == "vif5.0")
            #expect(TapDevice.name(ofIndex: 1) == nil, "the loopback interface")
            #expect(TapDevice.name(ofIndex: device.index + 1) == nil)
            #expect(TapDevice.name(ofIndex: 0) == nil)
        }
    }
}
