import Descriptors
import Testing

@testable import Service

/// What the units say with Restart=, RestartForceExitStatus= and RestartPreventExitStatus=.
struct SupervisorStepTests {
    @Test(arguments: [0, 2, 3] as [Int32]) func `what is over stays so`(status: Int32) {
        #expect(Supervisor.Step(after: .exited(status), isEnding: false) == .end(status: status))
    }

    @Test(
        arguments: [
            (.killed(signal: 9), 100), (.exited(1), 100), (.exited(75), 0), (.exited(127), 1000), (nil, 1000),
        ] as [(ChildProcess.End?, Int32)])
    func `all else is tried again, until a signal comes`(end: ChildProcess.End?, pause: Int32) {
        #expect(Supervisor.Step(after: end, isEnding: false) == .restart(pause: pause))
        guard let end else { return }
        let status: Int32 = if case .exited(let status) = end { status } else { 137 }
        #expect(Supervisor.Step(after: end, isEnding: true) == .end(status: status))
    }
}
