import Foundation
import Service
import Testing

@Test func theProcessorsAreThoseOfTheMachine() throws {
    // Whatever this process is bound to, the kernel counts a cpuN line for each processor that is online (proc(5)).
    let lines = try String(contentsOfFile: "/proc/stat", encoding: .utf8).split(separator: "\n")
    let processors = lines.filter { $0.hasPrefix("cpu") && !$0.hasPrefix("cpu ") }
    #expect(ProcessLimits.processors == processors.count)
}
