import Testing
import XenWire

@testable import Xenstore

@Suite struct PathTests {
    @Test(arguments: [
        "/", "/a", "/local/domain/0/backend/vbd/7/51712", "/A-z_0@9", "@releaseDomain", "@releaseDomain/7",
    ])
    func validPathsAreAccepted(_ text: String) throws {
        #expect(try XenstorePath(text).description == text)
    }

    @Test(arguments: [
        "", "a", "a/b", "//", "/a/", "/a//b", "//a", "/a b", "/a\0b", "/a\n", "/ä", "/a.b", "/a+b", "/a:b", "/~",
    ])
    func invalidPathsAreRefused(_ text: String) {
        #expect(throws: XenstoreError.self) { try XenstorePath(text) }
    }

    @Test(arguments: [("/", 2047), ("/local/domain/7/", 2048)])
    func lengthsAreBounded(_ prefix: String, _ longest: Int) {
        func isValid(_ length: Int) -> Bool {
            (try? XenstorePath(prefix + String(repeating: "x", count: length))) != nil
        }
        #expect(isValid(longest))
        for length in [longest + 1, 3072, 80_000] { #expect(!isValid(length)) }
        #expect((try? XenstorePath("/local/domain/123456/" + String(repeating: "x", count: 2048))) == nil)
    }

    @Test func everyByteOutsideTheCharsetIsRefused() {
        let allowed = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@".unicodeScalars)
        for value in UInt32(0)..<0x250 {
            guard let scalar = Unicode.Scalar(value) else { continue }
            let isAccepted = (try? XenstorePath("/a\(scalar)b")) != nil
            #expect(isAccepted == allowed.contains(scalar), "U+\(String(value, radix: 16))")
        }
    }

    @Test func pathsAreTakenApartAndPutTogether() throws {
        let disk = try path("/local/domain/0").appending("backend/vbd")
        #expect(disk.description == "/local/domain/0/backend/vbd")
        #expect(disk.parent?.description == "/local/domain/0/backend")
        #expect(disk.components == ["local", "domain", "0", "backend", "vbd"])
        #expect(try path("/a").parent == .root)
        #expect(XenstorePath.root.parent == nil)
        #expect(XenstorePath.releaseDomain.parent == nil)
        #expect(try XenstorePath.root.appending("a").description == "/a")
        #expect(try path("/a").contains(path("/a/b")))
        #expect(try !path("/a").contains(path("/ab")))
        #expect(try XenstorePath.root.contains(path("/ab")))
        #expect(throws: XenstoreError.self) { try disk.appending("") }
        #expect(throws: XenstoreError.self) { try disk.appending("/x") }
        #expect(throws: XenstoreError.self) { try disk.appending("x/") }
    }
}

@Suite struct ValueTests {
    @Test(arguments: [
        ("0", 0), ("7", 7), ("51712", 51712), ("00012", 12), ("18446744073709551615", UInt64.max),
    ])
    func decimalNumbersAreParsed(_ text: String, _ number: UInt64) {
        #expect(XenstoreValue(Array(text.utf8)).unsigned(atMost: .max) == number)
    }

    @Test(arguments: [
        "", " 1", "1 ", "+1", "-1", "0x10", "1e3", "18446744073709551616", "99999999999999999999", "1\0", "\u{FF11}",
        "000000000000000000001", "4\n",
    ])
    func everythingElseIsRefused(_ text: String) {
        #expect(XenstoreValue(Array(text.utf8)).unsigned(atMost: .max) == nil)
    }

    @Test func numbersAreBounded() {
        #expect(XenstoreValue(Array(repeating: 0x31, count: 3000)).unsigned(atMost: .max) == nil)
        #expect(XenstoreValue(Array("40".utf8)).unsigned(atMost: 40) == 40)
        #expect(XenstoreValue(Array("41".utf8)).unsigned(atMost: 40) == nil)
    }

    @Test func flagsAreExactlyZeroOrOne() {
        #expect(XenstoreValue([0x30]).flag == false)
        #expect(XenstoreValue([0x31]).flag == true)
        for bytes: [UInt8] in [[], [0x32], [0x30, 0x31], [0x31, 0], [0x31, 0x0A]] {
            #expect(XenstoreValue(bytes).flag == nil)
        }
    }

    @Test func bytesThatAreNotTextAreNoText() {
        #expect(XenstoreValue([0xFF, 0xFE]).text == nil)
        #expect(XenstoreValue([]).text == "")
        #expect(XenstoreValue([0x61, 0x1B, 0xFF, 0x5C]).description == "a\\x1b\\xff\\x5c")
        #expect(XenstoreValue(Array(repeating: 0x61, count: 3000)).description.utf8.count < 100)
    }

    @Test func permissionsRoundTrip() {
        let permissions = XenstorePermissions(
            owner: DomainID(7), others: .read, grants: [.init(DomainID(0), .both), .init(DomainID(65535), .write)])
        #expect(permissions.payload == Array("r7\0b0\0w65535\0".utf8))
        #expect(XenstorePermissions(payload: permissions.payload) == permissions)
        #expect(permissions.access(of: DomainID(9)) == .read)
        #expect(permissions.access(of: DomainID(65535)) == .write)
        #expect(permissions.access(of: DomainID(7)) == .both)
    }

    @Test(arguments: ["", "r7", "x7\0", "r\0", "r65536\0", "r-1\0", "r7\0\0", "\0", "r7 \0"])
    func malformedPermissionsAreRefused(_ payload: String) {
        #expect(XenstorePermissions(payload: Array(payload.utf8)) == nil)
    }
}

@Suite struct FrameTests {
    @Test func framesHaveTheLayoutOfTheWire() {
        let frame = XenstoreFrame(type: 2, request: 0x0102_0304, transaction: 5, payload: [0x2F, 0])
        #expect(frame.encoded == [2, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, 2, 0, 0, 0, 0x2F, 0])
    }

    @Test func framesSurviveAnyFragmentation() throws {
        var generator = SplitMix(seed: 1)
        for _ in 0..<200 {
            let frames = (0..<Int.random(in: 1...5, using: &generator)).map { _ in XenstoreFrame.random(&generator) }
            var stream = frames.flatMap(\.encoded)[...]
            var decoder = XenstoreFrameDecoder(maximumPayload: 4096)
            var decoded: [XenstoreFrame] = []
            while !stream.isEmpty {
                let piece = stream.prefix(Int.random(in: 1...40, using: &generator))
                stream = stream.dropFirst(piece.count)
                decoder.append(Array(piece))
                while let frame = try decoder.next() { decoded.append(frame) }
            }
            #expect(decoded == frames)
        }
    }

    @Test func aFrameThatIsTooLongIsRefusedBeforeItArrives() {
        var decoder = XenstoreFrameDecoder(maximumPayload: 1 << 20)
        decoder.append(
            XenstoreFrame(type: 2, request: 0, transaction: 0, payload: []).encoded.dropLast(4) + [1, 0, 16, 0])
        #expect(throws: XenstoreFrameDecoder.Oversized(length: 1 << 20 + 1)) { try decoder.next() }
    }

    @Test func randomBytesNeverTrap() {
        var generator = SplitMix(seed: 2)
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...64, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            var decoder = XenstoreFrameDecoder(maximumPayload: 1 << 20)
            decoder.append(bytes)
            while let frame = try? decoder.next() { _ = frame.payload.nulTerminatedStrings }
            _ = XenstorePermissions(payload: bytes)
            _ = DirectoryPart(bytes)
            _ = XenstoreErrorName(payload: bytes)
            _ = XenstoreValue(bytes).description
            _ = XenstoreValue(bytes).unsigned(atMost: .max)
            var watches = WatchTable()
            _ = watches.add(.root)
            try? watches.note(bytes)
        }
    }

    @Test func randomTextMakesValidFramesOrNone() throws {
        var generator = SplitMix(seed: 3)
        let alphabet: [Character] = Array("ab/@-_0 .\0ä")
        for _ in 0..<5000 {
            let text = String(
                (0..<Int.random(in: 0...12, using: &generator)).map { _ in
                    alphabet[Int.random(in: 0..<alphabet.count, using: &generator)]
                })
            guard let path = try? XenstorePath(text) else { continue }
            let requests: [XenstoreRequest?] = [
                try? .read(path), try? .write(path, [0, 1]), try? .makeDirectory(path), try? .remove(path),
                try? .directory(path), try? .directoryPart(path, offset: 7), try? .getPermissions(path),
                try? .watch(path, token: 9), try? .unwatch(path, token: 9),
                try? .setPermissions(path, XenstorePermissions(owner: DomainID(0))),
            ]
            for request in requests.compactMap(\.self) { try expectWellFormed(request) }
        }
    }

    @Test func requestsThatDoNotFitAreRefused() throws {
        let long = try path("/local/domain/1/" + String(repeating: "x", count: 2000))
        #expect(try XenstoreRequest.write(path("/a"), Array(repeating: 1, count: 4093)).payload.count == 4096)
        #expect(throws: XenstoreError.self) { try XenstoreRequest.write(path("/a"), Array(repeating: 1, count: 4094)) }
        #expect(throws: XenstoreError.self) { try XenstoreRequest.write(long, Array(repeating: 1, count: 2100)) }
        let many = XenstorePermissions(
            owner: DomainID(0), grants: (1...1000).map { .init(DomainID($0), .read) })
        #expect(throws: XenstoreError.self) { try XenstoreRequest.setPermissions(path("/a"), many) }
    }

    @Test func eventsAreNotNodes() {
        #expect(throws: XenstoreError.self) { try XenstoreRequest.read(.releaseDomain) }
        #expect(throws: XenstoreError.self) { try XenstoreRequest.write(.releaseDomain, []) }
        #expect(throws: XenstoreError.self) { try XenstoreRequest.remove(.introduceDomain) }
        #expect(throws: XenstoreError.self) { try XenstoreRequest.remove(.root) }
    }

    /// The rules of docs/misc/xenstore.txt, written down a second time.
    private func expectWellFormed(_ request: XenstoreRequest) throws {
        #expect(request.payload.count <= 4096)
        #expect(request.payload.contains(0))
        if request.operation != .write { #expect(request.payload.last == 0) }
        let first = request.payload.prefix { $0 != 0 }
        #expect(!first.isEmpty && (first.first == UInt8(ascii: "/") || first.first == UInt8(ascii: "@")))
        #expect(first.count == 1 || first.last != UInt8(ascii: "/"))
        #expect(!String(decoding: first, as: UTF8.self).contains("//"))
    }
}

/// Random numbers that are the same in every run.
struct SplitMix: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

extension XenstoreFrame {
    static func random(_ generator: inout SplitMix) -> XenstoreFrame {
        let payload = (0..<Int.random(in: 0...60, using: &generator)).map { _ in
            UInt8.random(in: 0...255, using: &generator)
        }
        return XenstoreFrame(
            type: .random(in: 0...30, using: &generator), request: .random(in: 0 ... .max, using: &generator),
            transaction: .random(in: 0 ... .max, using: &generator), payload: payload)
    }
}
