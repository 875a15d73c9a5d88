import Foundation
import Service
import Testing

@Test func theProcessorsAreThoseThatTheProcessMayUse() {
    // Foundation asks sched_getaffinity(2) too, by its own way.
    #expect(ProcessLimits.processors == ProcessInfo.processInfo.activeProcessorCount)
}
