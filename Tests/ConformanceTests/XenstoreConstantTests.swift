import Testing
import Xenstore

@Suite struct XenstoreConstantTests {
    /// Every operation that the client knows has the number of xs_wire.h.
    @Test(arguments: XenstoreOperation.allCases) func operations(operation: XenstoreOperation) {
        let name =
            switch operation {
            case .control: "XS_CONTROL"
            case .directory: "XS_DIRECTORY"
            case .read: "XS_READ"
            case .getPermissions: "XS_GET_PERMS"
            case .watch: "XS_WATCH"
            case .unwatch: "XS_UNWATCH"
            case .transactionStart: "XS_TRANSACTION_START"
            case .transactionEnd: "XS_TRANSACTION_END"
            case .introduce: "XS_INTRODUCE"
            case .release: "XS_RELEASE"
            case .getDomainPath: "XS_GET_DOMAIN_PATH"
            case .write: "XS_WRITE"
            case .makeDirectory: "XS_MKDIR"
            case .remove: "XS_RM"
            case .setPermissions: "XS_SET_PERMS"
            case .watchEvent: "XS_WATCH_EVENT"
            case .error: "XS_ERROR"
            case .isDomainIntroduced: "XS_IS_DOMAIN_INTRODUCED"
            case .resume: "XS_RESUME"
            case .setTarget: "XS_SET_TARGET"
            case .resetWatches: "XS_RESET_WATCHES"
            case .directoryPart: "XS_DIRECTORY_PART"
            }
        #expect(ConstantTests.xen[name] == Int64(operation.rawValue))
    }

    @Test func limits() {
        #expect(ConstantTests.xen["XENSTORE_PAYLOAD_MAX"] == Int64(XenstoreFrame.maximumPayload))
        #expect(ConstantTests.xen["XENSTORE_ABS_PATH_MAX"] == Int64(XenstorePath.maximumLength))
        #expect(ConstantTests.xen["XENSTORE_REL_PATH_MAX"] == Int64(XenstorePath.maximumRelativeLength))
    }
}
