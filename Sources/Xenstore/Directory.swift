// The children of a node may not fit in one payload. C xenstored then answers E2BIG and has DIRECTORY_PART; oxenstored
// exceeds the payload limit instead.

/// How often a listing starts over because the node changed meanwhile.
private let directoryAttempts = 32

/// A part is as long as a payload allows, so that this many hold any listing that a client would accept.
private let directoryParts = 1024

extension RequestCarrier {
    public func directory(_ path: XenstorePath) throws(XenstoreError) -> [String]? {
        do throws(XenstoreError) {
            guard let payload = try carryIfPresent(.directory(path)) else { return nil }
            return try childNames(payload, of: path)
        } catch {
            guard error.name == .tooBig else { throw error }
        }
        for _ in 0..<directoryAttempts {
            if let listing = try directoryInParts(path) { return try childNames(listing, of: path) }
        }
        throw .contention(attempts: directoryAttempts)
    }

    /// The whole listing as DIRECTORY would answer it; nil if the node changed between two parts.
    private func directoryInParts(_ path: XenstorePath) throws(XenstoreError) -> [UInt8]? {
        var listing: [UInt8] = []
        var generation: ArraySlice<UInt8>?
        for _ in 0..<directoryParts {
            let payload = try carry(.directoryPart(path, offset: listing.count))
            guard let part = DirectoryPart(payload) else { throw .protocolViolation("DIRECTORY_PART \(path)") }
            if let generation, generation != part.generation { return nil }
            generation = part.generation
            listing += part.names
            if part.isLast { return listing }
            if part.names.isEmpty { break }
        }
        throw .protocolViolation("DIRECTORY_PART \(path) does not end")
    }

    private func childNames(_ payload: [UInt8], of path: XenstorePath) throws(XenstoreError) -> [String] {
        guard let names = payload.nulTerminatedStrings else { throw .protocolViolation("DIRECTORY \(path)") }
        return names.map { String(decoding: $0, as: UTF8.self) }
    }
}

/// One answer to DIRECTORY_PART: `generation NUL name NUL name NUL ...`, with one more NUL after the last name of all
/// (docs/misc/xenstore.txt).
struct DirectoryPart: Equatable {
    let generation: ArraySlice<UInt8>
    /// Names, each with its NUL.
    let names: ArraySlice<UInt8>
    let isLast: Bool

    init?(_ payload: [UInt8]) {
        guard let end = payload.firstIndex(of: 0) else { return nil }
        generation = payload[..<end]
        let rest = payload[(end + 1)...]
        isLast = rest.last == 0 && (rest.count == 1 || rest.dropLast().last == 0)
        names = isLast ? rest.dropLast() : rest
        guard names.isEmpty || names.last == 0 else { return nil }
    }
}
