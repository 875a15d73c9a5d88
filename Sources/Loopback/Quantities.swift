/// Numbers as people read them.
public enum Quantity {
    /// A whole number with its thousands apart: `1,234,567`.
    public static func grouped(_ number: Double) -> String {
        guard number.isFinite, let whole = UInt64(exactly: number.magnitude.rounded()) else { return "-" }
        let digits = Array(String(whole))
        let groups = stride(from: digits.count, to: 0, by: -3).map { String(digits[max($0 - 3, 0)..<$0]) }
        return (number <= -0.5 ? "-" : "") + groups.reversed().joined(separator: ",")
    }

    /// With so many decimals, rounded: `0.97`.
    public static func fixed(_ number: Double, decimals: Int) -> String {
        let scale = (0..<min(max(decimals, 0), 6)).reduce(1.0) { scale, _ in scale * 10 }
        guard number.isFinite, let scaled = UInt64(exactly: (number.magnitude * scale).rounded()) else { return "-" }
        let (whole, rest) = scaled.quotientAndRemainder(dividingBy: UInt64(scale))
        let sign = number < 0 && scaled > 0 ? "-" : ""
        guard scale > 1 else { return "\(sign)\(whole)" }
        let digits = String(rest)
        return "\(sign)\(whole)." + String(repeating: "0", count: decimals - digits.count) + digits
    }

    /// Nanoseconds in microseconds, with three digits that say something: `1.94`, `23.4`, `152`, `4,310`.
    public static func microseconds(_ nanoseconds: UInt64) -> String {
        let microseconds = Double(nanoseconds) / 1000
        switch microseconds {
        case ..<9.995: return fixed(microseconds, decimals: 2)
        case ..<99.95: return fixed(microseconds, decimals: 1)
        default: return grouped(microseconds)
        }
    }
}
