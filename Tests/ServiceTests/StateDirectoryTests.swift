import Descriptors
import Foundation
import Service
import Testing

/// A directory that goes with the test.
private final class Scratch {
    let path: String
    init() throws {
        let base = FileManager.default.temporaryDirectory
        let url = base.appendingPathComponent("service-tests-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: false)
        path = url.path
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    func mode(_ name: String) throws -> Int? {
        try FileManager.default.attributesOfItem(atPath: path + "/" + name)[.posixPermissions] as? Int
    }
}

struct StateDirectoryTests {
    @Test func `it is made with its parents, for its owner only`() throws {
        let scratch = try Scratch()
        _ = try StateDirectory(scratch.path + "/a/b", name: "vbd-1")
        #expect(try scratch.mode("a/b") == 0o700)
        #expect(try scratch.mode("a/b/vbd-1.lock") == 0o600)
    }

    @Test func `a second daemon for the same domain and class is refused at once and told by whom`() throws {
        let scratch = try Scratch()
        let first = try StateDirectory(scratch.path, name: "vbd-1")
        do throws(StateDirectoryError) {
            _ = try StateDirectory(scratch.path, name: "vbd-1")
            Issue.record("the lock was given twice")
        } catch {
            #expect(error == .taken(path: scratch.path + "/vbd-1.lock", holder: getpid()))
            #expect(error.description.contains("process \(getpid()) serves this already"))
        }
        _ = try StateDirectory(scratch.path, name: "vbd-2")
        _ = try StateDirectory(scratch.path, name: "vbd3-1")
        withExtendedLifetime(first) {}
    }

    @Test func `the lock ends with its holder`() throws {
        let scratch = try Scratch()
        do { _ = try StateDirectory(scratch.path, name: "vbd-1") }
        _ = try StateDirectory(scratch.path, name: "vbd-1")
    }

    @Test(arguments: [0o777, 0o770, 0o702])
    func `a directory that others may write to is refused`(_ mode: Int) throws {
        let scratch = try Scratch()
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: scratch.path)
        #expect(throws: StateDirectoryError.self) { try StateDirectory(scratch.path, name: "vbd-1") }
    }

    @Test func `a file in the place of the directory is refused by name`() throws {
        let scratch = try Scratch()
        #expect(FileManager.default.createFile(atPath: scratch.path + "/file", contents: nil))
        do throws(StateDirectoryError) {
            _ = try StateDirectory(scratch.path + "/file", name: "vbd-1")
            Issue.record("a file was taken for a directory")
        } catch {
            #expect(error.description == "state directory \(scratch.path)/file: Not a directory")
        }
    }

    @Test func `files are replaced as a whole, read and removed`() throws {
        let scratch = try Scratch()
        let directory = try StateDirectory(scratch.path, name: "vbd-1")
        #expect(try directory.read("status") == nil)
        try directory.replace("status", with: "one")
        try directory.replace("status", with: "")
        #expect(try directory.read("status") == "")
        try directory.replace("status", with: "two")
        #expect(try directory.read("status") == "two")
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: scratch.path).sorted() == [
                "vbd-1.lock", "vbd-1.status",
            ])
        try directory.remove("status")
        try directory.remove("status")
        #expect(try directory.read("status") == nil)
    }

    @Test func `a link in the place of a file is not followed`() throws {
        let scratch = try Scratch()
        let directory = try StateDirectory(scratch.path, name: "vbd-1")
        try FileManager.default.createSymbolicLink(
            atPath: scratch.path + "/vbd-1.status.new", withDestinationPath: scratch.path + "/elsewhere")
        #expect(throws: (any Error).self) { try directory.replace("status", with: "x") }
        #expect(!FileManager.default.fileExists(atPath: scratch.path + "/elsewhere"))
    }
}

struct PollTests {
    @Test func `says which descriptors are readable`() throws {
        var ends: [Int32] = [0, 0]
        unsafe #expect(pipe(&ends) == 0)
        defer { ends.forEach { close($0) } }
        #expect(try Poll.readable([ends[0], -1], milliseconds: 0) == [false, false])
        unsafe #expect(write(ends[1], "x", 1) == 1)
        #expect(try Poll.readable([-1, ends[0]], milliseconds: 1000) == [false, true])
    }
}
