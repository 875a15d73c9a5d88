internal import CLinux
internal import CXen
internal import Descriptors
internal import SharedRing
internal import Telemetry
internal import Uring
internal import XenWire
internal import Xenbus

/// One connection of a disk: an open volume and the queues on it.
final class DeviceSession {
    /// What outlives the process.
    struct Keeping {
        /// Makes or finds the queues' journals, on a volume of this identity; nil: there are to be none.
        let journals: (_ volume: VolumeIdentity?) throws -> (journals: [Journal], areFound: Bool)
        /// The rings are an earlier process's.
        let adopts: Bool
        let device: UInt32
        /// See `VolumeFence`.
        let host: UInt16
    }

    let settings: DiskSettings
    let connection: Connection
    private let frontend: DomainID
    let volume: Volume
    private(set) var description: DiskDescription
    let engine: String
    private let lane: DiscardLane?
    private let shared: DeviceShared
    let fence: VolumeFence?
    /// The next process can go on where this one ends, however it ends.
    let canBeAdopted: Bool
    /// It goes on where an earlier process has ended.
    let recovers: Bool
    private(set) var queues: [QueueThread] = []
    private var conditions: [QueueCondition] = []
    private(set) var isStopped = false

    init(
        _ name: String, frontend: DomainID, _ options: DeviceOptions, _ settings: DiskSettings,
        _ connection: Connection, _ keeping: Keeping, platform: any RingPlatform, clock: any Clock
    ) throws {
        self.settings = settings
        self.connection = connection
        self.frontend = frontend
        volume = try Volume(
            settings.volume,
            VolumeOptions(
                isReadOnly: !settings.isWritable, direct: options.direct, loopFiles: options.loopFiles))
        fence = try Self.fence(volume, frontend, keeping)
        canBeAdopted = fence != nil || volume.isReadOnly || volume.kind == .null
        let kept = try keeping.journals(canBeAdopted ? volume.identity() : nil)
        recovers = kept.areFound
        description = DiskDescription(of: volume.geometry, volume.geometry.capacity, settings, options)
        engine = volume.kind == .null ? "null" : options.engine.kind.rawValue
        lane = description.discard == nil ? nil : try DiscardLane(volume, name: "\(name).d")
        shared = try DeviceShared(
            capacity: description.sectors, unit: volume.changeUnit, queues: connection.rings.count,
            recovers: recovers, discards: lane)
        let template = QueueTemplate(
            name: name, domain: frontend, options, settings, description, volume, kept.journals, fence,
            recovers: recovers)
        do {
            for index in connection.rings.indices {
                queues.append(
                    try QueueThread(
                        template.configuration(connection, index), platform: platform, shared: shared, clock: clock,
                        makeEngine: template.engineMaker(connection, index)))
            }
        } catch {
            stop()
            throw error
        }
        conditions = queues.map { _ in .running }
    }

    /// Nil where nothing is ever changed, and, on a connection that is new, where the volume's file system has no locks.
    private static func fence(_ volume: Volume, _ frontend: DomainID, _ keeping: Keeping) throws(Fault) -> VolumeFence?
    {
        guard !volume.isReadOnly, volume.kind != .null else { return nil }
        let fence = VolumeFence(volume.data, domain: frontend, device: keeping.device, host: keeping.host)
        do throws(Fault) {
            _ = try fence.pass()
            return fence
        } catch {
            guard keeping.adopts else { return nil }
            throw error
        }
    }

    /// Nothing of an earlier process is under way.
    var isFenceOpen: Bool { fence.map { $0.waited != nil } ?? true }

    /// Ends the queues, then the lane that they hand discards to. Does nothing the second time.
    func stop() {
        guard !isStopped else { return }
        isStopped = true
        for queue in queues { queue.stop() }
        lane?.stop()
    }

    /// Whether the frontend still grants us its first ring page: a grant copy tells, a mapping would outlive its domain.
    func isPeerAlive(on platform: any RingPlatform) -> Bool {
        guard let reference = connection.rings.first?.references.first else { return false }
        do throws(Fault) {
            let table = try platform.openGrantTable()
            let page = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
            defer { unsafe page.deallocate() }
            // The page and the segment live for the call; eight bytes fit.
            var segment = unsafe xen_grant_copy_segment.fromGuest(frontend, reference, offset: 0, length: 8, to: page)
            return unsafe table.copy(&segment, count: 1, .fromGuest) == 0
        } catch {
            return false
        }
    }

    /// Readable when a queue's condition has changed.
    var attention: Int32 { isStopped ? -1 : shared.attention }

    /// The queues whose condition is another than at the last call.
    func changedConditions() -> [(Int, QueueCondition)] {
        guard !isStopped else { return [] }
        _ = linux_eventfd_take(shared.attention)
        let now = queues.map(\.condition)
        defer { conditions = now }
        return zip(now, conditions).enumerated().filter { $1.0 != $1.1 }.map { ($0, $1.0) }
    }

    /// Looks at the volume's size; the keys that say it, if it has changed.
    func refreshCapacity() throws(Fault) -> [PublishedKey]? {
        guard !isStopped else { return nil }
        let capacity = try volume.refreshCapacity()
        let now = description.resized(to: capacity.rawValue, physicalBlock: Int(volume.geometry.physicalBlock))
        guard now != description else { return nil }
        description = now
        // Requests may reach as far before the guest hears of it.
        shared.capacity = now.sectors
        return now.sizeKeys
    }

    /// One line for the log.
    var summary: String {
        let access = volume.isReadOnly ? "read-only" : "writable"
        let direct = volume.isInMemory ? "in memory" : volume.isDirect ? "O_DIRECT" : "page cache"
        let file = volume.backingFile.map { " on \($0)" } ?? ""
        return "\(volume.name)\(file): \(description.sectors) sectors, \(access), \(engine), \(direct), "
            + "\(connection.rings.count) queues of \(connection.rings.first?.references.count ?? 0) pages"
    }
}

/// What the queues of one session have in common.
private struct QueueTemplate {
    private let name: String
    private let domain: DomainID
    private let options: DeviceOptions
    private let settings: DiskSettings
    private let description: DiskDescription
    private let volume: Volume
    private let journals: [Journal]
    private let fence: VolumeFence?
    private let recovers: Bool

    init(
        name: String, domain: DomainID, _ options: DeviceOptions, _ settings: DiskSettings,
        _ description: DiskDescription, _ volume: Volume, _ journals: [Journal],
        _ fence: VolumeFence?, recovers: Bool
    ) {
        self.name = name
        self.domain = domain
        self.options = options
        self.settings = settings
        self.description = description
        self.volume = volume
        self.journals = journals
        self.fence = fence
        self.recovers = recovers
    }

    func configuration(_ connection: Connection, _ index: Int) -> QueueConfiguration {
        let ring = connection.rings[index]
        return QueueConfiguration(
            name: "\(name).\(index)", domain: domain, abi: connection.abi, ringReferences: ring.references,
            eventPort: ring.port, limits: description.limits(indirectSegments: options.offer.indirectSegments),
            bufferCeiling: options.bufferCeiling, volumeBlock: volume.geometry.operationUnit,
            discard: description.discardRules, pausesWhenFull: settings.pausesWhenFull,
            isNull: volume.kind == .null, mayPoll: options.mayPoll,
            mappedPages: connection.persistentGrants ? options.mappedPages : nil, index: index,
            journal: index < journals.count ? journals[index] : nil, recovers: recovers, fence: fence)
    }

    func engineMaker(_ connection: Connection, _ index: Int) -> @Sendable () throws(Fault) -> any Engine {
        let (volume, choice, capacity) = (volume, options.engine, connection.operations(queue: index))
        return { () throws(Fault) in try volume.makeEngine(choice, capacity: capacity) }
    }
}

extension Connection {
    /// Operations that one queue can have in flight: a part for every slot of its ring, and those that large requests are
    /// worked off in.
    func operations(queue: Int) -> Int { Int(abi.entries(pages: rings[queue].references.count)) + 256 }
}

extension DiskDescription {
    /// A volume as it is offered.
    init(of geometry: Geometry, _ capacity: Sector, _ settings: DiskSettings, _ options: DeviceOptions) {
        self.init(
            capacity: capacity.rawValue, sectorSize: options.offer.sectorSize,
            physicalBlock: Int(geometry.physicalBlock), isReadOnly: !settings.isWritable, isCDROM: settings.isCDROM,
            isRemovable: settings.isRemovable, offersBarrier: options.offersBarrier,
            discard: settings.allowsDiscard
                ? geometry.discard.map { Discard(granularity: $0.granularity, alignment: $0.alignment) } : nil)
    }

    /// What a request may ask for.
    func limits(indirectSegments: UInt16) -> RequestLimits {
        RequestLimits(
            indirectSegments: indirectSegments, alignmentMask: UInt8(truncatingIfNeeded: sectorSize / 512 - 1),
            isReadOnly: isReadOnly, offersBarrier: offersBarrier, offersFlush: offersFlush,
            offersDiscard: discard != nil)
    }

    /// The same in sectors.
    var discardRules: DiscardRules {
        DiscardRules(granularity: (discard?.granularity ?? 512) / 512, alignment: (discard?.alignment ?? 0) / 512)
    }
}
