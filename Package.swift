// swift-tools-version: 6.2
import PackageDescription

/// Every Swift target is held to the same rules: strict concurrency (language mode 6), strict memory safety,
/// explicit existentials and import levels, and no warning tolerated.
let strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableExperimentalFeature("Lifetimes"),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// With FUZZ in the environment modules are built for libFuzzer, and there is one more executable (`make fuzz`).
let isFuzzing = Context.environment["FUZZ"] != nil
let instrumented: [SwiftSetting] = isFuzzing ? [.unsafeFlags(["-sanitize=fuzzer,address"])] : []

/// Modules that judge what a guest or a journal says. Whatever else libFuzzer had to look through after each run, it would
/// make half as many of them.
let judges: Set = ["Descriptors", "NetBackend", "NetFrames", "SharedRing", "XenWire"]

func module(_ name: String, _ dependencies: [Target.Dependency], _ more: [SwiftSetting] = []) -> Target {
    .target(
        name: name, dependencies: dependencies,
        swiftSettings: strict + (judges.contains(name) ? instrumented : []) + more)
}

/// For code that runs a few times in a device's life: small rather than fast.
let small: [SwiftSetting] = [.unsafeFlags(["-Osize"], .when(configuration: .release))]

func tests(of name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: "\(name)Tests", dependencies: dependencies, swiftSettings: strict)
}

let fuzzing: [Target] = [
    .target(name: "CFuzzDriver", path: "Tests/CFuzzDriver"),
    .executableTarget(
        name: "fuzz-wire",
        dependencies: [
            "CFuzzDriver", "CXen", "Descriptors", "NetBackend", "NetFrames", "SharedRing", "XenWire", "Xenbus",
            "Xenstore",
        ],
        path: "Tests/FuzzWire",
        swiftSettings: strict + instrumented,
        linkerSettings: [.unsafeFlags(["-sanitize=fuzzer,address", "-use-ld=lld"])]),
]

let package = Package(
    name: "xen-swift-backends",
    products: [
        .executable(name: "xen-blkbackd", targets: ["xen-blkbackd"]),
        .executable(name: "xen-netbackd", targets: ["xen-netbackd"]),
        .executable(name: "xen-loopback", targets: ["xen-loopback"]),
        .executable(name: "xen-backctl", targets: ["xen-backctl"]),
        // The Benchmarks package measures these modules directly.
        .library(
            name: "XenBackends", targets: ["XenWire", "SharedRing", "Telemetry", "Uring", "BlockBackend", "Loopback"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        // C: headers and thin shims.
        .target(name: "CXen"),
        .target(name: "CLinux", linkerSettings: [.linkedLibrary("uring"), .linkedLibrary("aio")]),

        // A module imports only from what stands above it.
        module("Descriptors", ["CLinux"]),
        module("XenWire", ["CXen"]),
        module("SharedRing", ["CXen", "CLinux", "Descriptors", "XenWire"]),
        module("NetFrames", ["XenWire"]),
        module("HostNetwork", ["CLinux", "Descriptors", "NetFrames"], small),
        module("Tap", ["CLinux", "Descriptors"]),
        module("Telemetry", ["CXen", "Descriptors", .product(name: "Logging", package: "swift-log")]),
        module("Xenstore", ["CXen", "CLinux", "Descriptors", "XenWire"], small),
        module("Xenbus", ["Xenstore", "XenWire", .product(name: "Logging", package: "swift-log")], small),
        module("Uring", ["CLinux", "Descriptors"]),
        module(
            "NetBackend",
            [
                "CXen", "CLinux", "Descriptors", "XenWire", "SharedRing", "Telemetry", "Xenstore", "Xenbus",
                "HostNetwork", "NetFrames", "Tap", "Uring",
                .product(name: "Logging", package: "swift-log"),
            ]),
        module(
            "BlockBackend",
            [
                "CXen", "CLinux", "Descriptors", "XenWire", "SharedRing", "Telemetry", "Xenstore", "Xenbus", "Uring",
                .product(name: "Logging", package: "swift-log"),
            ]),
        module(
            "Loopback",
            [
                "CXen", "CLinux", "Descriptors", "XenWire", "SharedRing", "Telemetry", "Xenstore", "Xenbus", "Uring",
                "NetFrames", "Tap",
            ]),
        // What the demonstration needs beside: other tools, a picture. Not in Loopback, which daemons link.
        module("Demonstration", ["CLinux", "Descriptors", "Loopback", "Telemetry"], small),
        module("LiveXen", ["CXen", "CLinux", "Descriptors", "XenWire", "SharedRing", "Xenstore"]),
        module("Service", ["CLinux", "Descriptors", .product(name: "Logging", package: "swift-log")], small),

        module(
            "BackendDaemon",
            [
                "Descriptors", "LiveXen", "Loopback", "Service", "SharedRing", "Telemetry", "XenWire", "Xenbus",
                "Xenstore",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], small),

        .executableTarget(
            name: "xen-blkbackd",
            dependencies: [
                "BackendDaemon", "BlockBackend", "Descriptors", "LiveXen", "Service", "SharedRing", "Uring", "XenWire",
                "Xenbus",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .executableTarget(
            name: "xen-netbackd",
            dependencies: [
                "BackendDaemon", "Descriptors", "HostNetwork", "NetBackend", "Service", "Tap", "XenWire", "Xenbus",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .executableTarget(
            name: "xen-backctl",
            dependencies: [
                "Descriptors", "Service", .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "xen-loopback",
            dependencies: [
                "BlockBackend", "Demonstration", "Loopback", "Service", "Telemetry", "Uring", "Xenbus", "Xenstore",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: strict),

        tests(
            of: "Xenbus",
            ["Loopback", "XenWire", "Xenbus", "Xenstore", .product(name: "Logging", package: "swift-log")]),
        tests(
            of: "Daemon",
            [
                "BlockBackend", "CXen", "Demonstration", "Descriptors", "Loopback", "Service", "SharedRing",
                "xen-backctl", "xen-blkbackd", "xen-netbackd", "Xenstore", "XenWire",
            ]),
        tests(
            of: "LiveXen",
            [
                "BlockBackend", "CLinux", "CXen", "Descriptors", "LiveXen", "Loopback", "SharedRing", "Uring",
                "XenWire", "Xenstore",
            ]),
        tests(of: "Service", ["Descriptors", "Service"]),
        tests(of: "Uring", ["CLinux", "Descriptors", "Uring"]),
        tests(of: "Xenstore", ["Descriptors", "Loopback", "Xenstore", "XenWire"]),
        tests(
            of: "BlockBackend",
            ["BlockBackend", "CLinux", "Descriptors", "SharedRing", "Uring", "XenWire", "Xenbus", "Xenstore"]),
        tests(of: "Telemetry", ["Telemetry", .product(name: "Logging", package: "swift-log")]),
        // A process with writes under way that HostTests kill.
        .executableTarget(
            name: "fence-peer", dependencies: ["BlockBackend", "Uring", "XenWire"], path: "Tests/FencePeer",
            swiftSettings: strict),
        tests(of: "Host", ["BlockBackend", "CLinux", "Descriptors", "Uring", "XenWire", "fence-peer"]),
        // A backend process that LoopbackTests kill.
        .executableTarget(
            name: "loopback-peer", dependencies: ["CXen", "Loopback", "SharedRing", "XenWire"],
            path: "Tests/LoopbackPeer", swiftSettings: strict),
        tests(
            of: "Loopback",
            [
                "CXen", "Demonstration", "Descriptors", "Loopback", "SharedRing", "Telemetry", "Xenbus", "Xenstore",
                "XenWire", "loopback-peer",
            ]),
        // Kills the queue at any instruction (`make step-kill`).
        .target(name: "CStepKill", path: "Tests/CStepKill"),
        .executableTarget(
            name: "step-kill",
            dependencies: [
                "BlockBackend", "CStepKill", "CXen", "Descriptors", "Loopback", "NetBackend", "NetFrames", "SharedRing",
                "Telemetry", "Uring", "XenWire", .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], path: "Tests/StepKill", swiftSettings: strict),
        tests(of: "SharedRing", ["CXen", "Descriptors", "SharedRing", "XenWire"]),
        tests(
            of: "NetBackend",
            [
                "CXen", "Descriptors", "HostNetwork", "Loopback", "NetBackend", "NetFrames", "SharedRing", "Telemetry",
                "XenWire", "Xenbus", "Xenstore",
            ]),
        .target(name: "CNamespace", path: "Tests/CNamespace"),
        tests(
            of: "HostNetwork", ["CLinux", "CNamespace", "Descriptors", "HostNetwork", "Loopback", "NetFrames", "Tap"]),
        tests(of: "NetFrames", ["NetFrames", "XenWire"]),
        tests(of: "Tap", ["CPackets", "Descriptors", "NetFrames", "Tap", "XenWire"]),
        .target(name: "CPackets", path: "Tests/CPackets"),
        tests(of: "XenWire", ["CXen", "CXenReference", "XenWire"]),
        tests(of: "Conformance", ["CXen", "CXenReference", "SharedRing", "Xenbus", "Xenstore", "XenWire"]),
        tests(
            of: "Scenario",
            [
                "CLinux", "CXen", "BlockBackend", "Descriptors", "Loopback", "ScenarioWorld", "SharedRing", "Uring",
                "XenWire",
            ]),
        .target(
            name: "ScenarioWorld",
            dependencies: [
                "BlockBackend", "CLinux", "CStoreTrap", "CXen", "Descriptors", "Loopback", "SharedRing", "Uring",
                "XenWire",
            ], path: "Tests/ScenarioWorld", swiftSettings: strict),
        .target(name: "CStoreTrap", path: "Tests/CStoreTrap"),
        // `make torture`
        .executableTarget(
            name: "torture",
            dependencies: ["ScenarioWorld", .product(name: "ArgumentParser", package: "swift-argument-parser")],
            path: "Tests/Torture", swiftSettings: strict),
        // Xen's own headers, for comparison; empty where libxen-dev is not installed.
        .target(name: "CXenReference", dependencies: ["CXen"], path: "Tests/CXenReference"),
    ] + (isFuzzing ? fuzzing : []),
    swiftLanguageModes: [.v6]
)
