import NetFrames
import Testing

struct AddressRangeTests {
    @Test(arguments: [
        ("10.0.0.1", "10.0.0.1"), ("10.1.2.3/8", "10.1.2.3/8"), ("0.0.0.0/0", "0.0.0.0/0"), ("::", "::"),
        ("::1", "::1"),
        ("fe80::", "fe80::"), ("2001:0db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("1:0:2:3:4:5:6:7/64", "1:0:2:3:4:5:6:7/64"),
    ])
    func `a range is written as RFC 5952 has it`(text: String, expected: String) throws {
        let range = try #require(AddressRange(text))
        #expect("\(range)" == expected)
        #expect(AddressRange(expected) == range)
    }

    @Test(arguments: [
        ("10.1.2.3/8", "10.0.0.0/8"), ("10.255.255.255/9", "10.128.0.0/9"), ("10.1.2.3", "10.1.2.3"),
        ("fd00::ffff/121", "fd00::ff80/121"), ("10.1.2.3/0", "0.0.0.0/0"),
    ])
    func `a network begins with its first address`(text: String, expected: String) {
        #expect(AddressRange(text)?.network == AddressRange(expected))
    }

    @Test func `ranges overlap where one is within the other`() throws {
        func range(_ text: String) throws -> AddressRange { try #require(AddressRange(text)) }
        #expect(try range("10.0.0.7").isWithin(range("10.0.0.0/29")))
        #expect(try !range("10.0.0.8").isWithin(range("10.0.0.0/29")))
        #expect(try !range("10.0.0.0/28").isWithin(range("10.0.0.0/29")))
        #expect(try range("10.0.0.0/28").overlaps(range("10.0.0.0/29")))
        #expect(try !range("::/0").overlaps(range("10.0.0.0/29")))
    }

    @Test func `bytes make a range only if they are an address`() {
        #expect(AddressRange(bytes: [10, 0, 0, 1], length: 32) == AddressRange("10.0.0.1"))
        #expect(AddressRange(bytes: [10, 0, 0], length: 24) == nil)
        #expect(AddressRange(bytes: [10, 0, 0, 1], length: 33) == nil)
        #expect(AddressRange(bytes: [10, 0, 0, 1], length: -1) == nil)
    }
}
