/// Guesses how many frames wait in a TAP device, which does not say, from how many there were before.
///
/// Frames come in trains: what is there when the backend looks, and what is added while it reads. The next train has probably
/// as many frames as the shortest of late. Reading frames together saves a seventh of their cost, and each read too many
/// costs more than a whole frame (see `FrameReads`), so a guess is rather too low than too high.
struct FrameTrain {
    /// Frames of this train so far.
    private var length = 0
    private var expected = 0
    private var isLong = false

    /// Reading together saves nothing where copying the bytes takes most of the time, and would touch much memory.
    private static var longest: Int { @_noLocks get { 4096 } }
    /// Fewer are not worth a system call that reads many.
    private static var fewest: Int { @_noLocks get { 8 } }

    /// Frames that very probably wait, `limit` at most; 0 where it is better to look one by one.
    func ahead(limit: Int) -> Int {
        guard !isLong else { return 0 }
        let guess = min(length < expected ? expected - length : beyond, limit)
        return guess < Self.fewest ? 0 : guess
    }

    /// Where the train is far longer than those before, the device is probably filled anew all the time: one in sixteen of what
    /// was read is little to lose.
    private var beyond: Int { length < 2 * expected ? 0 : length / 16 }

    /// Frames were read, the longest with so many bytes.
    mutating func add(_ frames: Int, longest: Int) {
        length &+= frames
        if longest > Self.longest { isLong = true }
    }

    /// Nothing more is there. A shorter train counts at once, and more than it is, a longer one bit by bit: trains of one length
    /// are known to the last frame in the end.
    mutating func end() {
        if isLong {
            expected = 0
        } else if length < expected {
            expected = length - length / 8
        } else {
            expected += (length - expected + 3) / 4
        }
        length = 0
        isLong = false
    }
}
