internal import CLinux
internal import Descriptors
internal import SharedRing
internal import XenWire

/// Frames and as many grant references of a model guest, both given back at the end.
///
/// Frame `i` belongs to reference `i`; nothing is granted before it is asked for.
@safe struct GrantedFrames: ~Copyable {
    let domain: GuestDomain
    let firstFrame: UInt32
    let firstReference: UInt32
    let count: UInt32
    /// The first frame's memory; the others follow.
    let base: UnsafeMutableRawPointer

    init(_ count: UInt32, in domain: GuestDomain) throws(Fault) {
        let frame = try domain.allocateFrames(count)
        guard let base = unsafe domain.memory(ofFrame: frame), let reference = try? domain.allocateReferences(count)
        else {
            domain.freeFrames(frame, count)
            throw Fault("\(count) grant references of domain \(domain.id)", errno: ENOSPC)
        }
        firstFrame = frame
        firstReference = reference
        unsafe self.base = base
        self.domain = domain
        self.count = count
    }

    /// Grants all of them, writable.
    func grantAll(to backend: DomainID) {
        for index in 0..<count {
            domain.grants.grant(firstReference &+ index, frame: firstFrame &+ index, to: backend, readOnly: false)
        }
    }

    /// Ends all grants; the first that is still in use, if there is one.
    func endAll() -> GrantReference? {
        let references = (0..<count).map { GrantReference(firstReference &+ $0) }
        return references.first { !domain.grants.end($0) }
    }

    deinit {
        domain.freeReferences(firstReference, count)
        domain.freeFrames(firstFrame, count)
    }
}
