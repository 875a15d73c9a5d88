package import BlockBackend
package import XenWire

/// What kind of world is tortured; the seed decides everything else.
package struct TorturePlan: Sendable, CustomStringConvertible {
    /// How often each kind of request is chosen, relative to the others.
    package struct Mix: Sendable {
        var read = 10
        var write = 10
        var flush = 1
        var flushWithData = 0
        var barrier = 0
        var discard = 0

        package init() {}
        init(
            read: Int = 10, write: Int = 10, flush: Int = 1, flushWithData: Int = 0, barrier: Int = 0, discard: Int = 0
        ) {
            self.read = read
            self.write = write
            self.flush = flush
            self.flushWithData = flushWithData
            self.barrier = barrier
            self.discard = discard
        }
    }

    package let name: String
    package var mix = Mix()
    package var queues = 2
    package var abi = BlockABI.native
    package var persistentGrants = false
    package var ringPages = 1
    /// Of all queues together.
    package var requests = 1500
    /// Open at once on each queue.
    package var depth = 12
    /// Segments of a direct request at most, and thousandths of reads and writes that are indirect.
    package var segments = 4
    package var indirect = 0
    package var indirectSegments = 24
    /// Few, so that requests overlap.
    package var sectors = 48
    package var volumeBlock = 512
    package var bufferCeiling = 1 << 20
    package var engineCapacity = 288
    package var registersSlabs = true
    /// Thousandths of operations on the volume.
    package var short = 20
    package var failed = 0
    package var transient = 5
    /// The volume runs full now and then.
    package var runsFull = false
    package var discardCapacity = 16
    package var discardRules = DiscardRules(granularity: 1, alignment: 0)
    /// Where ring indices start.
    package var firstIndex: UInt32 = 0xffff_fe00
    /// Requests between two kills, on the average; and thousandths of new processes that are killed while they recover.
    package var killEvery = 100
    package var killAgain = 300
    /// Thousandths of kills inside a step that are the process' own fault, by which requests go alone and are condemned.
    package var faults = 0

    package var description: String { name }

    package var limits: RequestLimits {
        RequestLimits(
            indirectSegments: UInt16(indirectSegments), alignmentMask: 0, isReadOnly: false,
            offersBarrier: mix.barrier > 0, offersFlush: true, offersDiscard: mix.discard > 0)
    }

    package static let all: [TorturePlan] = [
        TorturePlan(name: "one queue", queues: 1),
        TorturePlan(name: "two queues"),
        TorturePlan(name: "four queues", queues: 4, depth: 8),
        TorturePlan(name: "hot sectors", mix: Mix(read: 15, write: 10), queues: 3, segments: 2, sectors: 12),
        TorturePlan(name: "x86_32 layout", abi: .x86_32),
        TorturePlan(name: "persistent grants", persistentGrants: true, indirect: 100),
        TorturePlan(name: "large rings", ringPages: 2, depth: 60, sectors: 200),
        TorturePlan(name: "indirect", queues: 2, depth: 6, indirect: 500, sectors: 120),
        TorturePlan(name: "read-modify-write", queues: 1, volumeBlock: 4096),
        TorturePlan(
            name: "read-modify-write on three queues", queues: 3, indirect: 100, sectors: 64, volumeBlock: 4096),
        TorturePlan(
            name: "barriers", mix: Mix(read: 8, write: 12, flush: 1, flushWithData: 1, barrier: 3), queues: 3),
        TorturePlan(
            name: "discards", mix: Mix(write: 8, discard: 6), queues: 2, discardCapacity: 1,
            discardRules: DiscardRules(granularity: 4, alignment: 1)),
        TorturePlan(
            name: "everything", mix: Mix(flush: 2, flushWithData: 1, barrier: 1, discard: 2), queues: 3,
            indirect: 150, sectors: 64, volumeBlock: 4096, discardRules: DiscardRules(granularity: 8, alignment: 0)),
        TorturePlan(
            name: "small memory", mix: Mix(read: 5, write: 5), queues: 2, requests: 500, depth: 10, indirect: 700,
            indirectSegments: 100, sectors: 900, bufferCeiling: 256 << 10),
        TorturePlan(
            name: "errors and short operations", queues: 2, indirect: 200, short: 250, failed: 40, transient: 80),
        TorturePlan(name: "full volume", queues: 2, short: 100, runsFull: true),
        TorturePlan(name: "busy engine", queues: 2, indirect: 200, engineCapacity: 3, registersSlabs: false),
        TorturePlan(name: "kills upon kills", queues: 2, requests: 500, killEvery: 25, killAgain: 700),
        TorturePlan(
            name: "faults", mix: Mix(flush: 0, discard: 2), queues: 2, requests: 700, killEvery: 40, killAgain: 600,
            faults: 600),
        TorturePlan(name: "index wrap", queues: 2, firstIndex: 0xffff_ffe0, killEvery: 60),
    ]
}

/// What is broken on purpose, to see that it is found; production code stays as it is.
package enum Mutant: String, CaseIterable, Sendable {
    /// The new process does not wait for what the dead one has submitted.
    case noFence
    /// Every queue has claims of its own.
    case unsharedClaims
    /// The marks of what may have changed the volume are gone.
    case unmarked
    /// All writes are marked, those included that only waited.
    case allMarked
    /// No queue waits for the others' first stage.
    case eagerRest
    /// Claims are of sectors, on a volume with larger blocks.
    case sectorClaims
    /// A new process does not notify the frontend.
    case silentRecovery
    /// Answers that were written, published or not, are forgotten.
    case forgottenAnswers
}

extension Mutant {
    /// A scenario in which it is found, and within how many seeds.
    package var victim: String {
        switch self {
        case .sectorClaims: "read-modify-write"
        // What only waited may change places with what it waited for; but a barrier has an order.
        case .allMarked: "barriers"
        case .unsharedClaims, .eagerRest: "four queues"
        case .forgottenAnswers: "kills upon kills"
        case .noFence, .unmarked, .silentRecovery: "hot sectors"
        }
    }

    package var seeds: Int { 40 }
}
