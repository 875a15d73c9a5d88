import Testing
import Xenbus

@Suite struct XenbusConstantTests {
    @Test(arguments: XenbusState.allCases) func states(state: XenbusState) {
        let name = "\(state)"
        let xen = "XenbusState" + name.prefix(1).uppercased() + name.dropFirst()
        #expect(ConstantTests.xen[xen] == Int64(state.rawValue))
    }
}
