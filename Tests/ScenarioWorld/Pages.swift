package import Descriptors
import Glibc
package import Loopback
import SharedRing
package import XenWire

/// A guest's data pages, each with a grant reference of its own.
///
/// Pages and references are numbered alike; whoever holds a page's number may touch its memory, which lives as long as
/// the domain.
package final class Pages {
    package let domain: GuestDomain
    private let backend: DomainID
    private let firstFrame: UInt32
    private let firstReference: UInt32
    private var free: [Int]
    /// Granted once, for both directions, and never revoked: persistent grants.
    private let keepsGrants: Bool

    private static let poisonByte: UInt8 = 0xde

    package init(_ domain: GuestDomain, count: Int, backend: DomainID = DomainID(0), keepingGrants: Bool = false)
        throws(Fault)
    {
        self.domain = domain
        self.backend = backend
        firstFrame = try domain.allocateFrames(UInt32(count))
        firstReference = try domain.allocateReferences(UInt32(count))
        free = Array((0..<count).reversed())
        keepsGrants = keepingGrants
        if keepingGrants { for page in 0..<count { grant(page, readOnly: false, to: backend) } }
    }

    package var available: Int { free.count }

    /// Takes a page and grants it.
    package func take(readOnly: Bool) -> Int {
        let page = free.removeLast()
        if !keepsGrants { grant(page, readOnly: readOnly, to: backend) }
        return page
    }

    package func grant(_ page: Int, readOnly: Bool, to domain: DomainID) {
        self.domain.grants.grant(
            reference(page).rawValue, frame: frame(page), to: domain, readOnly: readOnly)
    }

    package func frame(_ page: Int) -> UInt32 { firstFrame + UInt32(page) }
    package func reference(_ page: Int) -> GrantReference { GrantReference(firstReference + UInt32(page)) }

    /// Takes the grant back; false if it is still in use.
    package func revoke(_ page: Int) -> Bool { keepsGrants || domain.grants.end(reference(page)) }

    /// Gives a page back, whose grant was revoked.
    package func give(_ page: Int) { free.append(page) }

    package func memory(_ page: Int) -> UnsafeMutableRawPointer {
        guard let memory = unsafe domain.memory(ofFrame: frame(page)) else { preconditionFailure("no page \(page)") }
        return unsafe memory
    }

    // MARK: Sectors of a page, all within its 4,096 bytes

    /// Fills a page with what no write ever contains.
    package func poison(_ page: Int) { unsafe memset(memory(page), Int32(Self.poisonByte), 4096) }

    /// Whether all sectors beside a range are still poisoned.
    package func isPoisoned(_ page: Int, beside range: ClosedRange<UInt8>) -> Bool {
        isPoisoned(page, 0, Int(range.lowerBound) * 512) && isPoisoned(page, (Int(range.upperBound) + 1) * 512, 4096)
    }

    private func isPoisoned(_ page: Int, _ start: Int, _ end: Int) -> Bool {
        guard start < end else { return true }
        let base = unsafe memory(page) + start
        guard unsafe base.load(as: UInt8.self) == Self.poisonByte else { return false }
        // Every byte equals the one before it.
        return unsafe memcmp(base, base + 1, end - start - 1) == 0
    }

    /// Fills a sector with one repeated word.
    package func fill(_ page: Int, sector: UInt8, _ word: UInt64) {
        unsafe Self.fill(memory(page) + Int(sector & 7) * 512, word)
    }

    /// `sector` has 512 bytes.
    package static func fill(_ sector: UnsafeMutableRawPointer, _ word: UInt64) {
        unsafe sector.storeBytes(of: word, as: UInt64.self)
        var done = 8
        while done < 512 {
            unsafe memcpy(sector + done, sector, done)
            done *= 2
        }
    }

    /// The word that a sector repeats, or nil if it is torn.
    package func word(_ page: Int, sector: UInt8) -> UInt64? {
        let base = unsafe memory(page) + Int(sector & 7) * 512
        guard unsafe memcmp(base, base + 8, 504) == 0 else { return nil }
        return unsafe base.load(as: UInt64.self)
    }
}
