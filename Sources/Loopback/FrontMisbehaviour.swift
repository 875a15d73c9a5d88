public import XenWire

/// What a backend must never do. Linux' blkfront takes the disk out of service for each of these (blkif_interrupt,
/// blkif_completion, since XSA-391); here it fails the run.
public enum BackendMisbehaviour: Error, Equatable, Sendable, CustomStringConvertible {
    /// More responses than there are requests.
    case responseOverrun
    /// A response names an id that no request had.
    case unknownIdentifier(UInt64)
    /// A response names a request that was answered already.
    case duplicateIdentifier(UInt64)
    /// A response carries another operation than its request.
    case wrongOperation(asked: UInt8, answered: UInt8)
    /// A status that blkif.h does not know.
    case unknownStatus(Int16)
    /// The padding of a response is not zero (XSA-216).
    case dirtyPadding
    /// A request was answered while the backend still had a page of it mapped or was copying it.
    case grantInUse(GrantReference)
    /// The backend has closed, but still has a page of the ring mapped.
    case ringInUse(GrantReference)
    /// A sector that was read is not the one that was asked for, or not what was written to it.
    case wrongSector(SectorFault)

    public var description: String {
        switch self {
        case .responseOverrun: "the backend published more responses than there are requests"
        case .unknownIdentifier(let id): "the backend answered id \(id), which no request had"
        case .duplicateIdentifier(let id): "the backend answered id \(id) twice"
        case .wrongOperation(let asked, let answered):
            "the backend answered operation \(answered) to a request for operation \(asked)"
        case .unknownStatus(let status): "the backend answered with status \(status)"
        case .dirtyPadding: "a response's padding is not zero"
        case .grantInUse(let reference): "grant \(reference) was still in use when its request was answered"
        case .ringInUse(let reference): "grant \(reference) of a ring was still in use when the backend had closed"
        case .wrongSector(let fault): fault.description
        }
    }
}
