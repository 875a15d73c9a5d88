/// What would be wrong with a backend; each must be found, on all rings that it is for. The backend itself is always the
/// real one: a mutant changes what a killed process leaves, as if it had worked in another order, or what surrounds it.
enum Mutant: UInt32, CaseIterable {
    /// P1 is left out: an answer about to be given is in flight.
    case noAnsweredState = 1
    /// P5 comes before P4.
    case committedLate
    /// F3 comes before F2.
    case consumedFirst
    /// There is no private copy: what is in flight is read from the ring again.
    case noCopy
    /// P5 comes before P3.
    case freeBeforePublish
    /// Answers that were about to be given are given at recovery, whatever the guest has seen.
    case blindRedo
    /// R6 is left out, or what a network queue's thread does instead: no event at recovery.
    case silentRecovery
    /// D1 is left out: writes never conflict.
    case noClaims
    /// Sequences have the ring's 32 bits.
    case narrowSequence
    /// A write is answered while it is in the process' memory.
    case writeBack

    /// Discards never conflict with anything.
    case unclaimedDiscards
    /// A discard is answered before it is done.
    case earlyDiscards

    /// Each queue has claims of its own.
    case unsharedClaims
    /// A queue goes on while another may still do a change again.
    case noPhaseA
    /// D1's mark is left out: what may have changed the volume is not done again before the rest.
    case unmarked

    /// T2 comes behind T4: a batch is noted once its responses are written.
    case lateNote
    /// Nothing is put back.
    case noRestore
    /// What is put back is whatever lies there, and not private copies.
    case sharedCopies
    /// A batch is put back, published or not.
    case staleRestore
    /// As many requests are put back as there are copies, however many were noted.
    case countlessRestore
    /// T5 comes before T4 is over.
    case earlyPublish
    /// T4 and T5 come before T3: packets are answered, and then sent.
    case unsentAnswers
    /// A frame is copied to the guest after its responses are published.
    case lateCopies

    var rings: [Rings] {
        switch self {
        case .noAnsweredState, .committedLate, .consumedFirst, .noCopy, .freeBeforePublish, .blindRedo, .noClaims,
            .narrowSequence, .writeBack, .unclaimedDiscards, .earlyDiscards:
            [.block]
        case .unsharedClaims, .noPhaseA, .unmarked: [.twoQueues]
        case .silentRecovery: [.block, .transmit, .receive]
        case .lateNote, .noRestore, .sharedCopies, .staleRestore, .countlessRestore, .earlyPublish:
            [.transmit, .receive]
        case .unsentAnswers: [.transmit]
        case .lateCopies: [.receive]
        }
    }

    /// Few histories show it, of requests that all meet: a kill somewhere between two turns, and then another history.
    var isRare: Bool {
        switch self {
        case .noClaims, .unclaimedDiscards, .earlyDiscards, .unsharedClaims, .noPhaseA, .unmarked: true
        default: false
        }
    }
}
