import BlockBackend
import Testing
import XenWire

/// What kind of world to run; the seed decides everything else.
struct Scenario: Sendable, CustomTestStringConvertible {
    /// How often each kind of request is chosen, relative to the others.
    struct Mix: Sendable {
        var read = 10
        var write = 10
        var indirectRead = 0
        var indirectWrite = 0
        var flush = 0
        var flushWithData = 0
        var barrier = 0
        var discard = 0
    }

    var name: String
    var mix = Mix()
    var queues = 1
    var abi = BlockABI.native
    var ringPages = 1
    /// Per queue.
    var requests = 60
    /// Requests that each queue's guest has open at once.
    var depth = Int.max
    /// Segments of an indirect request at most.
    var indirectSegments = 48
    var sectors = 256
    /// What the volume's operations must be aligned to.
    var volumeBlock = 512
    /// `sector-size`.
    var sectorSize = 512
    var bufferCeiling = 1 << 20
    var engineCapacity = 64
    var registersSlabs = true
    /// Thousandths of operations.
    var short = 0
    var failed = 0
    var transient = 0
    /// Where ring indices start.
    var firstIndex: UInt32 = 0xffff_fff0
    /// The volume runs full so many times.
    var timesFull = 0
    /// Data pages of each guest's queue.
    var dataPages = 160
    /// Synchronise fails with this errno from some moment on.
    var synchronizeError: Int32?
    /// All queues are stopped at some moment.
    var stops = false
    /// Discards that the lane holds.
    var discardCapacity = 16
    /// What a discard may touch.
    var discardRules = DiscardRules(granularity: 1, alignment: 0)

    var testDescription: String { name }
    var alignmentMask: UInt8 { UInt8(sectorSize / 512 - 1) }

    var limits: RequestLimits {
        RequestLimits(
            indirectSegments: UInt16(indirectSegments), alignmentMask: alignmentMask, isReadOnly: false,
            offersBarrier: mix.barrier > 0, offersFlush: true, offersDiscard: mix.discard > 0)
    }
}
