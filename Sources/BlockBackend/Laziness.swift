/// Whether operations may start with the call that sleeps instead of a call of their own.
///
/// Not while the volume answers within the call that starts an operation (from the page cache): then there is nothing to
/// sleep for. Where it never does, one call for both spares a system call for each single request.
struct Laziness {
    /// Submissions in a row that brought no answer at once, before one may be lazy.
    static let patience: UInt8 = 8
    /// Every so many submissions one is not, to learn whether the volume still takes its time.
    static let period: UInt8 = 64

    private var lateOnes: UInt8 = 0
    private var count: UInt8 = 0
    /// The last submission was not lazy, and its answers have not been looked for.
    private var isOpen = false

    var mayBeLazy: Bool { lateOnes >= Self.patience && count % Self.period != 0 }

    mutating func submitted(lazily: Bool) {
        count &+= 1
        isOpen = !lazily
    }

    /// The first look after a submission tells whether there was an answer at once.
    mutating func looked(reaped: Int) {
        guard isOpen else { return }
        isOpen = false
        lateOnes = reaped > 0 ? 0 : min(lateOnes &+ 1, Self.patience)
    }
}
