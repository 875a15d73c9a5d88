internal import CXen
internal import XenWire

/// Who has mapped which grants (Xen's maptrack), and the bits in the granting domain's table that tell it so.
struct MapTrack {
    /// One map call, to be undone as a whole.
    struct Mapping {
        let domain: DomainID
        let memory: DomainMemory
        let references: [UInt32]
        let writable: Bool
    }

    private struct Pins {
        var readers = 0
        var writers = 0
    }

    private var mappings: [UInt32: Mapping] = [:]
    private var pins: [DomainID: [UInt32: Pins]] = [:]
    private var nextHandle: UInt32 = 1

    /// Pages of a domain that are mapped somewhere.
    func mappedPages(of domain: DomainID) -> Int { pins[domain]?.count ?? 0 }

    /// Maps all references or none; the frames in their order, and the handle that ends the mapping.
    mutating func map(
        _ references: [UInt32], of domain: DomainID, _ memory: DomainMemory, for mapping: DomainID, writable: Bool
    ) throws(GrantRefusal) -> (handle: UInt32, frames: [UInt32]) {
        var frames: [UInt32] = []
        for reference in references {
            do throws(GrantRefusal) {
                frames.append(try Self.mark(reference, memory.view, for: mapping, writable: writable))
            } catch {
                let done = Array(references.prefix(frames.count))
                release(Mapping(domain: domain, memory: memory, references: done, writable: writable))
                throw error
            }
            pin(reference, of: domain, writable: writable)
        }
        let handle = nextHandle
        nextHandle &+= 1
        mappings[handle] = Mapping(domain: domain, memory: memory, references: references, writable: writable)
        return (handle, frames)
    }

    /// Ends a mapping; an unknown handle is ignored.
    mutating func unmap(_ handle: UInt32) {
        guard let mapping = mappings.removeValue(forKey: handle) else { return }
        release(mapping)
    }

    /// Sets GTF_reading and GTF_writing, so that the guest finds the entry in use (gnttab_end_foreign_access).
    private static func mark(
        _ reference: UInt32, _ view: DomainView, for mapping: DomainID, writable: Bool
    ) throws(GrantRefusal) -> UInt32 {
        let bits = UInt64(XEN_GTF_reading) | (writable ? UInt64(XEN_GTF_writing) : 0)
        // A guest that changes the entry all the time is given up on, as Xen does.
        for _ in 0..<5 {
            guard reference < view.references else { throw .referenceBeyondTable }
            let entry = view.entry(reference)
            let frame = try entry.frame(for: mapping.rawValue, writing: writable, pages: view.pages)
            // The reference is within the table.
            if unsafe xen_compare_exchange64(view.cell(reference), entry.bits, entry.bits | bits) != 0 {
                return frame
            }
        }
        throw .notGranted
    }

    private mutating func pin(_ reference: UInt32, of domain: DomainID, writable: Bool) {
        var pins = self.pins[domain, default: [:]][reference, default: Pins()]
        pins.readers += 1
        pins.writers += writable ? 1 : 0
        self.pins[domain, default: [:]][reference] = pins
    }

    private mutating func release(_ mapping: Mapping) {
        for reference in mapping.references {
            guard var pins = pins[mapping.domain]?[reference] else { continue }
            pins.readers -= 1
            pins.writers -= mapping.writable ? 1 : 0
            var ended = pins.readers == 0 ? UInt16(XEN_GTF_reading) : 0
            if pins.writers == 0 { ended |= UInt16(XEN_GTF_writing) }
            // The reference was within the table when it was mapped, and the mapping keeps the memory.
            unsafe _ = xen_fetch_and16(mapping.memory.view.cell(reference), ~ended)
            self.pins[mapping.domain]?[reference] = pins.readers == 0 ? nil : pins
        }
    }
}
