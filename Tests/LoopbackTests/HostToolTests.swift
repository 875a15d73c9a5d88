import Demonstration
import Glibc
import Loopback
import Testing

struct HostToolTests {
    private let scratch = try? ScratchDirectory(in: "/tmp")

    private func run(
        _ name: String, _ arguments: [String] = [], milliseconds: Int = 30_000, isOver: () -> Bool = { false }
    ) throws {
        try HostTool(name, arguments, log: #require(scratch).path + "/log")
            .run(milliseconds: milliseconds, isOver: isOver)
    }

    @Test func `a tool's end is told`() throws {
        try run("true")
        #expect(throws: HostToolError.failed("false", status: 1, line: "")) { try run("false") }
        #expect(throws: HostToolError.failed("sh", status: 3, line: "so it is")) {
            try run("sh", ["-c", "echo first; echo so it is >&2; exit 3"])
        }
        #expect(throws: HostToolError.killed("sh", signal: SIGKILL)) { try run("sh", ["-c", "kill -KILL $$"]) }
        #expect(throws: HostToolError.missing("no-such-tool")) { try run("no-such-tool") }
    }

    @Test func `nobody waits for ever`() throws {
        #expect(throws: HostToolError.late("sleep", milliseconds: 50)) { try run("sleep", ["600"], milliseconds: 50) }
        #expect(throws: HostToolError.interrupted("sleep")) { try run("sleep", ["600"], isOver: { true }) }
    }

    @Test func `arguments are taken as they are`() throws {
        #expect(throws: HostToolError.failed("sh", status: 1, line: "a b;$HOME 'c")) {
            try run("sh", ["-c", "printf '%s\\n' \"$1\"; exit 1", "sh", "a b;$HOME 'c"])
        }
    }

    @Test func `a scratch directory goes with all that is in it`() throws {
        var scratch: ScratchDirectory? = try ScratchDirectory(in: "/tmp")
        let path = try #require(scratch).path
        #expect(unsafe mkdir(path + "/below", 0o700) == 0)
        #expect(unsafe symlink("/", path + "/below/link") == 0)
        #expect(unsafe access(path, F_OK) == 0)
        scratch = nil
        #expect(unsafe access(path, F_OK) != 0)
        #expect(throws: (any Error).self) { try ScratchDirectory(in: "/no/such/place") }
    }
}
