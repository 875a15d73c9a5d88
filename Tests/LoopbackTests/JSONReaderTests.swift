import Demonstration
import Loopback
import Telemetry
import Testing

struct JSONReaderTests {
    @Test func `what is written is read again`() throws {
        let document: JSON = [
            "name": "a \"quoted\"\n\u{1}\\", "flag": .flag(true), "none": .null, "number": .number(.max),
            "list": .array([.decimal(-1.5), .object([]), .array([])]),
        ]
        #expect(try JSON(reading: document.text) == document)
    }

    @Test(arguments: [
        (#""\u0041\t\/""#, JSON.string("A\t/")), (#""\ud83d\ude00""#, .string("😀")), (" 12 ", .number(12)),
        ("-3", .decimal(-3)), ("1.5e3", .decimal(1500)), ("18446744073709551616", .decimal(18446744073709551616)),
        ("[ ]", .array([])), ("[1 , null]", .array([.number(1), .null])), ("false", .flag(false)),
    ])
    func `a document`(text: String, value: JSON) throws {
        #expect(try JSON(reading: text) == value)
    }

    @Test(arguments: [
        "", "{", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":1,}", "{a:1}", "tru", "+1", ".5", "1 1", "\"", "\"\\x\"",
        "\"\\u12\"",
        "\"\\u+123\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\u{1}\"", "--1", "nul",
    ])
    func `no document`(text: String) {
        #expect(throws: JSONError.self) { try JSON(reading: text) }
    }

    @Test func `depth is limited`() {
        let deep = String(repeating: "[", count: 100_000)
        #expect(throws: JSONError.self) { try JSON(reading: deep) }
        #expect(throws: Never.self) {
            try JSON(reading: String(repeating: "[", count: 60) + String(repeating: "]", count: 60))
        }
    }

    @Test func `parts are found by name and index`() throws {
        let document = try JSON(reading: #"{"jobs": [{"iops": 2.5}, {"iops": 7}]}"#)
        #expect(document["jobs"]?[0]?["iops"]?.double == 2.5)
        #expect(document["jobs"]?[1]?["iops"]?.double == 7)
        #expect(document["jobs"]?[2] == nil)
        #expect(document["jobs"]?[-1] == nil)
        #expect(document["jobs"]?["iops"] == nil)
    }
}
