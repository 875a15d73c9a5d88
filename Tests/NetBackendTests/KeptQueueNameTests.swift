import Testing

@testable import NetBackend

struct KeptQueueNameTests {
    @Test func `a queue's name says whose it is`() {
        #expect(KeptQueues.interface(of: "vif0.queue0") == 0)
        #expect(KeptQueues.interface(of: "vif12.queue7") == 12)
    }

    @Test(arguments: [
        "stored", "vif", "vif0", "vif0.queue8", "vif0.queue01", "vif00.queue0", "vif+1.queue0", "vbd0.queue0",
    ])
    func `other names are nobody's`(name: String) { #expect(KeptQueues.interface(of: name) == nil) }
}
