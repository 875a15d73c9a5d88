public import XenWire
public import Xenstore

/// A device as a toolstack describes it.
public protocol DeviceDescription: Sendable {
    /// The guest's and the backend's domain.
    var domain: DomainID { get }
    var backend: DomainID { get }
    /// The directory under `backend/`, and the one under the guest's `device/`.
    var kind: String { get }
    var frontendKind: String { get }
    /// What it is called in xenstore.
    var number: UInt32 { get }
    /// Both sides' nodes, in libxl's order.
    var backendNodes: [(String, String)] { get }
    var frontendNodes: [(String, String)] { get }
    /// What its script leaves in the backend's directory, besides `hotplug-status`.
    var scriptNodes: [(String, String)] { get }
}

extension DeviceDescription {
    /// `/local/domain/<guest>/device/<frontendKind>/<number>`
    public var frontendPath: XenstorePath {
        get throws(XenstoreError) {
            try XenstorePath.domain(domain.rawValue).appending("device/\(frontendKind)/\(number)")
        }
    }

    /// `/local/domain/<backend>/backend/<kind>/<guest>/<number>`
    public var backendPath: XenstorePath {
        get throws(XenstoreError) {
            try XenstorePath.domain(backend.rawValue).appending("backend/\(kind)/\(domain)/\(number)")
        }
    }

    /// `/libxl/<guest>/device/<kind>/<number>`
    public var libraryPath: XenstorePath {
        get throws(XenstoreError) { try XenstorePath("/libxl/\(domain)/device/\(kind)/\(number)") }
    }
}
