/// A rule of the block protocol that a guest broke. Each is counted under its own name; what it costs the guest is in
/// `consequence`.
public enum Violation: UInt8, Error, CaseIterable, Sendable {
    /// `req_prod` is further ahead of the answered requests than the ring has slots (RING_REQUEST_PROD_OVERFLOW).
    case requestOverrun
    /// The operation is not one of blkif.h.
    case unknownOperation
    /// The operation exists, but this device does not offer it.
    case operationNotOffered
    /// Zero segments where data is needed, or more than the request format or the negotiated limit holds.
    case segmentCount
    /// `first_sect` is greater than `last_sect`.
    case segmentReversed
    /// `last_sect` lies beyond the page.
    case segmentBeyondPage
    /// A position or length is not a multiple of the device's `sector-size`.
    case misaligned
    /// The request ends beyond the device.
    case beyondEnd
    /// A write-class operation on a read-only device.
    case readOnly
    /// The inner operation of an indirect request is neither read nor write.
    case indirectOperation
    /// Xen refused a grant reference: foreign, revoked, read-only for a read request, out of range.
    case grantRefused

    /// What happens when the rule is broken.
    public enum Consequence: Sendable {
        /// The ring is stopped for good.
        case stopsRing
        /// The request is answered with BLKIF_RSP_ERROR.
        case failsRequest
        /// The request is answered with BLKIF_RSP_EOPNOTSUPP.
        case refusesRequest
    }

    /// What this violation costs; nothing else is ever affected.
    @inlinable public var consequence: Consequence {
        switch self {
        case .requestOverrun: .stopsRing
        case .unknownOperation, .operationNotOffered: .refusesRequest
        default: .failsRequest
        }
    }

    /// The name under which it is counted and logged.
    public var name: String { "\(self)" }
}
