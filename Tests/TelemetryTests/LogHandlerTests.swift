import Logging
import Testing

@testable import Telemetry

struct LogHandlerTests {
    static func line(
        _ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata = [:], journal: Bool = true
    ) -> String {
        StandardErrorLogHandler(label: "daemon", level: .trace, hasPriority: journal).line(level, message, metadata)
    }

    @Test(arguments: [
        (Logger.Level.trace, 7), (.debug, 7), (.info, 6), (.notice, 5), (.warning, 4), (.error, 3), (.critical, 2),
    ])
    func `the journal gets a priority`(_ level: Logger.Level, _ priority: Int) {
        #expect(Self.line(level, "text") == "<\(priority)>text\n")
    }

    @Test func `a terminal gets name and level`() {
        #expect(Self.line(.warning, "text", journal: false) == "daemon: warning: text\n")
    }

    @Test func `the device comes first, other metadata last and in order`() {
        #expect(Self.line(.info, "text", ["b": "2", "device": "vbd-1-2", "a": "1"]) == "<6>vbd-1-2: text a=1 b=2\n")
    }

    @Test func `a message is one line whatever is in it`() {
        #expect(Self.line(.info, "a\n<0>b\u{1b}[2J\0", ["k": "v\r\n"]) == "<6>a?<0>b?[2J? k=v??\n")
    }
}
