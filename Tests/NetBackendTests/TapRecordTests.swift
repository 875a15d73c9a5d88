import Testing

@testable import NetBackend

struct TapRecordTests {
    @Test func `the device's number is read back, of this run of the host only`() {
        let text = TapRecord.text(17, boot: "b00t")
        #expect(TapRecord.index(in: text, boot: "b00t") == 17)
        #expect(TapRecord.index(in: text, boot: "other") == nil)
    }

    /// An older version's is empty.
    @Test(arguments: [nil, "", "\n", "b00t", "b00t x", "b00t 1 2", "b00t 99999999999"] as [String?])
    func `what does not say a number says none`(text: String?) {
        #expect(TapRecord.index(in: text, boot: "b00t") == nil)
        #expect(TapRecord.name(in: text, boot: "b00t", otherwise: "vif5.0") == "vif5.0")
    }
}
