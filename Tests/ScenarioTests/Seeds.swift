import Glibc

/// How many seeds each scenario runs: SCENARIO_SEEDS in the environment, for a long run, or enough to be quick.
enum Seeds {
    static let perScenario: Int = {
        // Tests read the environment once, before anything could change it.
        guard let text = unsafe getenv("SCENARIO_SEEDS"), let count = unsafe Int(String(cString: text)) else {
            return 50
        }
        return max(count, 1)
    }()

    /// The first seed; SCENARIO_FIRST_SEED repeats one that failed.
    static let first: UInt64 = {
        guard let text = unsafe getenv("SCENARIO_FIRST_SEED") else { return 1 }
        return unsafe UInt64(String(cString: text)) ?? 1
    }()

    static var all: Range<UInt64> { first..<first + UInt64(perScenario) }

    /// The first `count` of a hundred: for scenarios in which the seed decides less.
    static func some(_ count: Int) -> Range<UInt64> { first..<first + UInt64(max(perScenario * count / 100, 1)) }
}
