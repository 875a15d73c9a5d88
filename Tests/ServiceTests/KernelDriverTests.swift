import Foundation
import Service
import Testing

struct KernelDriverTests {
    @Test func `a device is held when its driver link is there`() throws {
        let files = FileManager.default
        let bus = files.temporaryDirectory.appendingPathComponent("bus-\(UUID().uuidString)")
        defer { try? files.removeItem(at: bus) }
        for (device, driver) in [("vbd-5-51712", "vbd"), ("vbd-5-51728", nil)] as [(String, String?)] {
            let path = bus.appendingPathComponent("devices/\(device)")
            try files.createDirectory(at: path, withIntermediateDirectories: true)
            guard let driver else { continue }
            let target = bus.appendingPathComponent("drivers/\(driver)")
            try files.createDirectory(at: target, withIntermediateDirectories: true)
            try files.createSymbolicLink(at: path.appendingPathComponent("driver"), withDestinationURL: target)
        }
        let drivers = KernelDriver(devices: bus.path + "/devices")
        #expect(drivers.holds("vbd-5-51712"))
        #expect(!drivers.holds("vbd-5-51728"))
        #expect(!drivers.holds("vbd-6-51712"))
    }
}
