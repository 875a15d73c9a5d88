public import Xenstore

/// A number as a guest writes it.
extension XenstoreValue: ExpressibleByIntegerLiteral {
    public init(integerLiteral number: UInt64) {
        self.init(Array(String(number).utf8))
    }
}
