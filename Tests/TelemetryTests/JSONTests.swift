import Foundation
import Telemetry
import Testing

struct JSONTests {
    @Test func `a document keeps its order`() {
        let document: JSON = [
            "b": .number(.max), "a": .array([.flag(true), .decimal(0.5), .string("x")]), "c": .object([]),
        ]
        #expect(document.text == #"{"b":18446744073709551615,"a":[true,0.5,"x"],"c":{}}"#)
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity])
    func `what JSON cannot say is null`(_ number: Double) {
        #expect(JSON.decimal(number).text == "null")
    }

    @Test(arguments: ["", "\"\\", "\n\t\r\u{0}\u{1f}", "grün \u{1F600}", "\u{7f}", "</script>"])
    func `another reader reads the same string`(_ string: String) throws {
        let text = JSON.array([.string(string)]).text
        let read = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String]
        #expect(read == [string])
        #expect(!text.contains("\n"))
    }
}
